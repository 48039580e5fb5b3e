//! The page, the chart and the summary, from the lines that were measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{CLASSES, Class, Entry, Who, save};
use crate::{Result, root};

/// Writes `RESULTS.md`, `results.svg` and the summary in `results.json` to the folder.
pub(super) fn write(results: &Value, out: &Path, python: &Path) -> Result<()> {
    let report = Report::new(results)?;
    let mut all = results.clone();
    all["ratios"] = report.ratios_json();
    save(out, &all)?;
    let chart = Command::new(python)
        .arg(root().join("benches/peers/chart.py"))
        .arg(out.join("results.json"))
        .arg(out.join("results.svg"))
        .output();
    let drawn = match chart {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("no chart: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(e) => {
            println!("no chart: {e}");
            false
        }
    };
    fs::write(out.join("RESULTS.md"), report.page(drawn))?;
    println!("written: {}", out.join("RESULTS.md").display());
    for line in report.totals() {
        println!("{line}");
    }
    Ok(())
}

/// A cell's place: what was measured together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    shape: (u64, u64),
    threads: u64,
    batch: u64,
    cold: bool,
}

/// The slices of one who took part in a cell, together.
#[derive(Clone, Debug)]
struct Timed {
    class: String,
    place: Place,
    who: String,
    spec: String,
    /// The least and the median of the medians, in seconds.
    least: f64,
    median: f64,
    wbytes: f64,
    kernel: String,
    error: f64,
    /// Weights were hot although cold ones were asked for.
    hot_all_the_same: bool,
}

struct Report<'a> {
    results: &'a Value,
    timed: Vec<Timed>,
    /// Shapes and threads, as they were measured.
    columns: Vec<((u64, u64), u64)>,
}

/// A ratio of speeds beside its aim.
struct Ratio<'a> {
    class: &'static Class,
    place: Place,
    ours: &'a Timed,
    peer: &'a Timed,
}

impl Ratio<'_> {
    fn value(&self) -> f64 {
        self.peer.least / self.ours.least
    }

    fn aim(&self) -> Option<f64> {
        // The aims of batch 1 are for cold weights.
        let counts = self.place.cold || self.place.batch > 1;
        self.class.aim(self.place.batch as usize).filter(|_| counts)
    }
}

impl<'a> Report<'a> {
    fn new(results: &'a Value) -> Result<Self> {
        let lines = results["lines"].as_array().ok_or("no lines")?;
        let mut timed: Vec<(Timed, Vec<f64>)> = Vec::new();
        let mut columns = Vec::new();
        for line in lines {
            let one = read(line).ok_or_else(|| format!("cannot read {line}"))?;
            let column = (one.place.shape, one.place.threads);
            if !columns.contains(&column) {
                columns.push(column);
            }
            let same = timed.iter_mut().find(|(t, _)| {
                (&t.class, t.place, &t.who, &t.spec) == (&one.class, one.place, &one.who, &one.spec)
            });
            let medians = vec![one.median];
            match same {
                None => timed.push((one, medians)),
                Some((t, all)) => {
                    if one.least < t.least {
                        (t.least, t.kernel) = (one.least, one.kernel);
                    }
                    t.error = t.error.max(one.error);
                    all.push(one.median);
                }
            }
        }
        let timed = timed.into_iter().map(|(mut t, mut medians)| {
            medians.sort_by(f64::total_cmp);
            t.median = medians[medians.len() / 2];
            t
        });
        Ok(Self {
            results,
            timed: timed.collect(),
            columns,
        })
    }

    fn classes(&self) -> impl Iterator<Item = &'static Class> {
        CLASSES
            .iter()
            .filter(|c| self.timed.iter().any(|t| t.class == c.key))
    }

    /// Batches of a class, and whether cold, in order.
    fn cells(&self, class: &Class) -> Vec<(u64, bool)> {
        let mut cells: Vec<(u64, bool)> = Vec::new();
        for t in self.timed.iter().filter(|t| t.class == class.key) {
            let cell = (t.place.batch, t.place.cold);
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells.sort_by_key(|(batch, cold)| (*batch, !cold));
        cells
    }

    fn find(&self, class: &Class, place: Place, entry: &Entry) -> Option<&Timed> {
        self.timed.iter().find(|t| {
            t.class == class.key
                && t.place == place
                && t.who == entry.who.name()
                && t.spec == entry.spec
        })
    }

    /// Ours against the best of the peers; dense products are no peers of sparse ones.
    fn ratio(&self, class: &'static Class, place: Place) -> Option<Ratio<'_>> {
        let ours = self.find(class, place, &class.entries[0])?;
        let dense = |e: &&Entry| class.sparsity.is_some() && e.who == Who::OpenBlas;
        let peers = class
            .entries
            .iter()
            .filter(|e| e.who != Who::Cortex && !dense(e));
        let peer = peers
            .filter_map(|e| self.find(class, place, e))
            .min_by(|a, b| a.least.total_cmp(&b.least))?;
        Some(Ratio {
            class,
            place,
            ours,
            peer,
        })
    }

    fn ratios(&self) -> Vec<Ratio<'_>> {
        let mut all = Vec::new();
        for class in self.classes() {
            for (batch, cold) in self.cells(class) {
                for &(shape, threads) in &self.columns {
                    let place = Place {
                        shape,
                        threads,
                        batch,
                        cold,
                    };
                    all.extend(self.ratio(class, place));
                }
            }
        }
        all
    }

    fn ratios_json(&self) -> Value {
        let ratios = self.ratios().into_iter().map(|r| {
            json!({
                "class": r.class.key,
                "title": r.class.title,
                "sparsity": r.class.sparsity,
                "shape": format!("{}x{}", r.place.shape.0, r.place.shape.1),
                "threads": r.place.threads,
                "B": r.place.batch,
                "cold": u8::from(r.place.cold),
                "ours_s": r.ours.least,
                "peer_s": r.peer.least,
                "peer": r.peer.who,
                "peer_spec": r.peer.spec,
                "ratio": r.value(),
                "ratio_of_medians": r.peer.median / r.ours.median,
                "aim": r.aim(),
            })
        });
        ratios.collect::<Vec<_>>().into()
    }

    /// How many aims were reached, by class.
    fn totals(&self) -> Vec<String> {
        let ratios = self.ratios();
        let total = |class: &Class| {
            let mine = ratios.iter().filter(|r| r.class.key == class.key);
            let (mut reached, mut all) = (0, 0);
            for (ratio, aim) in mine.filter_map(|r| Some((r.value(), r.aim()?))) {
                all += 1;
                reached += usize::from(ratio >= aim);
            }
            (all > 0).then(|| format!("{}: {reached} of {all} aims reached", class.title))
        };
        self.classes().filter_map(total).collect()
    }

    /// The best probe of a class's minute.
    fn probe(&self, class: &Class, shape: (u64, u64), threads: u64, field: &str) -> Option<f64> {
        let shape = format!("{}x{}", shape.0, shape.1);
        let probes = self.results["probes"].as_array()?.iter();
        probes
            .filter(|p| p["class"] == class.key && p["shape"] == shape && p["threads"] == threads)
            .filter_map(|p| p[field].as_f64())
            .max_by(f64::total_cmp)
    }

    fn page(&self, drawn: bool) -> String {
        let mut page = self.head();
        if drawn {
            page += "![Ratios to the best peer of each cell](results.svg)\n\n";
        }
        page += "## Ratios to the best peer\n\n\
                 Times as fast as the fastest peer of the cell, by the least time of all rounds; \
                 above 1 is faster. Bold: the aim is reached.\n\n";
        for class in self.classes().filter(|c| c.sparsity.is_none()) {
            self.ratio_table(&mut page, class);
        }
        self.mask_tables(&mut page);
        self.limits(&mut page);
        page += "## Rates\n\n\
                 GFLOP/s-equivalent, 2 · batch · out · in / time; at batch 1 GB/s of weights \
                 besides, as the library stores them.\n\n";
        for class in self.classes() {
            for &(shape, threads) in &self.columns {
                self.rates(&mut page, class, shape, threads);
            }
        }
        self.tail(&mut page);
        page
    }

    fn head(&self) -> String {
        let text = |v: &Value| v.as_str().unwrap_or("unknown").to_owned();
        let machine = &self.results["machine"];
        let settings = &self.results["settings"];
        let elapsed = settings["elapsed_s"].as_u64();
        let mut page = format!(
            "# Products beside the best peers\n\n\
             Written by `cargo xtask bench-peers` on {}; [README.md](README.md#products-beside-peers) \
             says how it measures, [results.json](results.json) has every line.\n\n\
             Machine: {} (family {}, model {}), {} cores, {} GiB, {}. Slices of {} s, {} rounds{}.\n",
            text(&self.results["date"]),
            text(&machine["cpu"]),
            text(&machine["family"]),
            text(&machine["model"]),
            machine["cores"],
            machine["memory_gib"],
            text(&machine["system"]),
            settings["seconds"],
            settings["rounds"],
            elapsed.map_or(String::new(), |s| format!(
                ", {} minutes in all",
                s.div_ceil(60)
            )),
        );
        if settings["rounds"].as_u64() < Some(3) || settings["seconds"].as_f64() < Some(0.2) {
            page += "\n**A short run, to see that everything works: its figures mean little.**\n";
        }
        if let Some(versions) = self.results["versions"].as_object() {
            let versions = versions.iter().map(|(k, v)| format!("{k} {}", text(v)));
            let versions = versions.collect::<Vec<_>>().join(", ");
            let _ = writeln!(page, "\nVersions: {versions}.");
        }
        page + "\n"
    }

    fn ratio_table(&self, page: &mut String, class: &'static Class) {
        let columns: Vec<_> = self
            .columns
            .iter()
            .filter(|(shape, threads)| {
                let here = |t: &&Timed| t.class == class.key;
                let mut mine = self.timed.iter().filter(here);
                mine.any(|t| t.place.shape == *shape && t.place.threads == *threads)
            })
            .collect();
        let _ = write!(page, "### {}\n\n| | aim |", class.title);
        for (shape, threads) in &columns {
            let _ = write!(page, " {} |", column(*shape, *threads));
        }
        page.push_str(" reached |\n|---|---:|");
        page.push_str(&"---:|".repeat(columns.len()));
        page.push_str("---|\n");
        for (batch, cold) in self.cells(class) {
            let ratios: Vec<_> = columns
                .iter()
                .map(|&&(shape, threads)| {
                    let place = Place {
                        shape,
                        threads,
                        batch,
                        cold,
                    };
                    self.ratio(class, place)
                })
                .collect();
            let aim = ratios.iter().flatten().find_map(Ratio::aim);
            let name = if cold { "" } else { ", hot" };
            let _ = write!(page, "| batch {batch}{name} | {} |", number(aim));
            for ratio in &ratios {
                let _ = write!(page, " {} |", cell(ratio.as_ref()));
            }
            let _ = writeln!(page, " {} |", reached(ratios.iter().flatten()));
        }
        page.push('\n');
    }

    /// Masks: ratios, and speeds relative to dense products of the same batch.
    fn mask_tables(&self, page: &mut String) {
        let masks: Vec<_> = self.classes().filter(|c| c.sparsity.is_some()).collect();
        if masks.is_empty() {
            return;
        }
        page.push_str(
            "### Mask, f32\n\n\
             Beside the better of MKL's CSR and DeepSparse, whose weights are hot throughout. \
             Then how much faster than OpenBLAS's dense product of the same batch each is, and \
             ours than our own dense one.\n\n\
             | zeros | batch | shape, threads | aim | ratio | reached | × dense: ours | MKL CSR | \
             DeepSparse | × our dense |\n\
             |---:|---:|---|---:|---:|---|---:|---:|---:|---:|\n",
        );
        for class in masks {
            for (batch, cold) in self.cells(class) {
                for &(shape, threads) in &self.columns {
                    let place = Place {
                        shape,
                        threads,
                        batch,
                        cold,
                    };
                    let Some(ratio) = self.ratio(class, place) else {
                        continue;
                    };
                    let least = |i: usize| {
                        let timed = self.find(class, place, &class.entries[i]);
                        timed.map(|t| t.least)
                    };
                    let faster = |than: Option<f64>, i: usize| {
                        number(than.zip(least(i)).map(|(d, t)| d / t))
                    };
                    let (blas, dense) = (least(3), least(4));
                    let hot = if cold { "" } else { ", hot" };
                    let _ = writeln!(
                        page,
                        "| {} | {batch}{hot} | {} | {} | {} | {} | {} | {} | {} | {} |",
                        class.sparsity.unwrap_or_default().replace('%', " %"),
                        column(shape, threads),
                        number(ratio.aim()),
                        cell(Some(&ratio)),
                        reached([&ratio].into_iter()),
                        faster(blas, 0),
                        faster(blas, 1),
                        faster(blas, 2),
                        faster(dense, 0),
                    );
                }
            }
        }
        page.push('\n');
    }

    /// Our rates as shares of what the machine gave in the same minute.
    fn limits(&self, page: &mut String) {
        page.push_str(
            "## Shares of the machine's limits\n\n\
             Ours, beside the probes of the same minute: bytes of weights read a second at batch 1 \
             with cold weights, and operations at the largest batch. Where both a ratio and its \
             share are low, the kernel is the limit; where the share is near 100 %, the machine \
             is.\n\n\
             | | shape, threads | read, GB/s | of the probe | aim | largest batch, GFLOP/s | of \
             the probe |\n|---|---|---:|---:|---:|---:|---:|\n",
        );
        for class in self.classes() {
            let largest = self.cells(class).last().copied();
            for &(shape, threads) in &self.columns {
                let at = |batch, cold| {
                    let place = Place {
                        shape,
                        threads,
                        batch,
                        cold,
                    };
                    self.find(class, place, &class.entries[0])
                };
                let one = at(1, true);
                let large = largest.and_then(|(batch, cold)| at(batch, cold));
                if one.is_none() && large.is_none() {
                    continue;
                }
                let read = one.map(|t| t.wbytes / t.least / 1e9);
                let flops = large.map(flops);
                let share = |rate: Option<f64>, field: &str| {
                    let probe = self.probe(class, shape, threads, field);
                    let share = rate.zip(probe).map(|(r, p)| r / p * 100.0);
                    share.map_or("–".into(), |s| format!("{s:.0} %"))
                };
                let _ = writeln!(
                    page,
                    "| {} | {} | {} | {} | {} | {} | {} ({}) |",
                    class.title,
                    column(shape, threads),
                    read.map_or("–".into(), |r| format!("{r:.1}")),
                    share(read, "read_gbs"),
                    class
                        .bandwidth
                        .map_or(String::new(), |b| format!("{:.0} %", b * 100.0)),
                    flops.map_or("–".into(), |f| format!("{f:.0}")),
                    share(flops, &format!("{}_gflops", class.unit)),
                    class.unit,
                );
            }
        }
        page.push('\n');
    }

    fn rates(&self, page: &mut String, class: &Class, shape: (u64, u64), threads: u64) {
        let cells = self.cells(class);
        let timed = |entry: &Entry| -> Vec<Option<&Timed>> {
            let cells = cells.iter();
            let place = |(batch, cold): &(u64, bool)| Place {
                shape,
                threads,
                batch: *batch,
                cold: *cold,
            };
            cells.map(|c| self.find(class, place(c), entry)).collect()
        };
        let rows: Vec<_> = class.entries.iter().map(|e| (e, timed(e))).collect();
        if rows.iter().all(|(_, row)| row.iter().all(Option::is_none)) {
            return;
        }
        let _ = write!(
            page,
            "### {}, {}\n\n| | bits |",
            class.title,
            column(shape, threads)
        );
        for (batch, cold) in &cells {
            let hot = if *cold { "" } else { ", hot" };
            let _ = write!(page, " batch {batch}{hot} |");
        }
        page.push_str(" largest error |\n|---|---:|");
        page.push_str(&"---:|".repeat(cells.len() + 1));
        page.push('\n');
        for (entry, row) in rows {
            let Some(some) = row.iter().flatten().next() else {
                continue;
            };
            // It does not tell what it reads.
            let bytes = entry.who != Who::DeepSparse;
            let bits = some.wbytes * 8.0 / (shape.0 * shape.1) as f64;
            let bits = number(Some(bits).filter(|_| bytes));
            let _ = write!(page, "| {} `{}` | {bits} |", entry.who.name(), entry.spec);
            for t in &row {
                let text = match t {
                    None => "–".to_owned(),
                    Some(t) => {
                        let mark = if t.hot_all_the_same { "†" } else { "" };
                        let read = if t.place.batch == 1 && bytes {
                            format!(", {:.1} GB/s", t.wbytes / t.least / 1e9)
                        } else {
                            String::new()
                        };
                        format!("{:.1}{mark}{read}", flops(t))
                    }
                };
                let _ = write!(page, " {text} |");
            }
            let error = row.iter().flatten().map(|t| t.error).fold(0.0, f64::max);
            let _ = writeln!(page, " {error:.0e} |");
        }
        page.push('\n');

        let unit = format!("{}_gflops", class.unit);
        let read = self.probe(class, shape, threads, "read_gbs");
        let peak = self.probe(class, shape, threads, &unit);
        if let Some(read) = read {
            let peak = peak.map_or(String::new(), |p| {
                format!(", {} {p:.0} GFLOP/s", class.unit)
            });
            let _ = writeln!(page, "Probes: {read:.1} GB/s{peak}.\n");
        }
    }

    fn tail(&self, page: &mut String) {
        if self.timed.iter().any(|t| t.hot_all_the_same) {
            page.push_str("† With hot weights, to its advantage.\n\n");
        }
        let kernels = self.timed.iter().filter(|t| t.who == "cortex");
        let mut kernels: Vec<&str> = kernels.map(|t| t.kernel.as_str()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let _ = writeln!(
            page,
            "Kernels of Cortex in this run: {}.",
            kernels.join(", ")
        );
        let missing = self.results["missing"].as_array();
        if let Some(missing) = missing.filter(|m| !m.is_empty()) {
            page.push_str("\n## Left out\n\n");
            for m in missing {
                let text = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
                let _ = writeln!(
                    page,
                    "* {} {} {}: {}",
                    text("peer"),
                    text("spec"),
                    text("group"),
                    text("why")
                );
            }
        }
    }
}

/// A line of results.
fn read(line: &Value) -> Option<Timed> {
    let cold = line["asked_cold"].as_u64()? == 1;
    Some(Timed {
        class: line["class"].as_str()?.to_owned(),
        place: Place {
            shape: (line["out"].as_u64()?, line["inn"].as_u64()?),
            threads: line["threads"].as_u64()?,
            batch: line["B"].as_u64()?,
            cold,
        },
        who: line["peer"].as_str()?.to_owned(),
        spec: line["entry"].as_str()?.to_owned(),
        least: line["min_s"].as_f64()?,
        median: line["med_s"].as_f64()?,
        wbytes: line["wbytes"].as_f64()?,
        kernel: line["kernel"].as_str()?.to_owned(),
        error: line["max_rel_error"].as_f64()?,
        hot_all_the_same: cold && line["cold"].as_u64()? == 0,
    })
}

fn flops(t: &Timed) -> f64 {
    let (out, inn) = t.place.shape;
    2.0 * t.place.batch as f64 * (out * inn) as f64 / t.least / 1e9
}

fn column(shape: (u64, u64), threads: u64) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!("{}×{}, {threads} thread{s}", shape.0, shape.1)
}

fn number(n: Option<f64>) -> String {
    n.map_or(String::new(), |n| format!("{n:.2}"))
}

/// `**1.35** ggml Q4_K`.
fn cell(ratio: Option<&Ratio<'_>>) -> String {
    let Some(ratio) = ratio else {
        return "–".into();
    };
    let value = format!("{:.2}", ratio.value());
    let good = ratio.aim().is_some_and(|aim| ratio.value() >= aim);
    let value = if good { format!("**{value}**") } else { value };
    format!("{value} {} {}", ratio.peer.who, ratio.peer.spec)
}

/// `yes`, `no`, `3 of 4`.
fn reached<'a>(ratios: impl Iterator<Item = &'a Ratio<'a>>) -> String {
    let aims: Vec<bool> = ratios.filter_map(|r| Some(r.value() >= r.aim()?)).collect();
    let good = aims.iter().filter(|a| **a).count();
    match (good, aims.len()) {
        (_, 0) => String::new(),
        (n, all) if n == all => "yes".into(),
        (0, _) => "no".into(),
        (n, all) => format!("{n} of {all}"),
    }
}
