//! `cortex doctor`.

use std::fs;

use cortex::{ABI_VERSION, archive, import, kernel};
use serde_json::json;

use crate::failure::{Done, Outcome};
use crate::{output, text};

/// Show what this machine offers and what cortex makes of it
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {}

fn after_help() -> String {
    let sets = kernel::Isa::ALL.into_iter().filter(|i| i.base().is_some());
    let names: Vec<_> = sets.map(kernel::Isa::name).collect();
    format!(
        "\
CORTEX_DISABLE_CPU takes instruction sets away, for comparisons and for finding faults:
  CORTEX_DISABLE_CPU=avx512 cortex doctor
It lists, separated by commas, any of {}.
With a set go those that build on it.",
        names.join(", ")
    )
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let chosen = kernel::best().isa().name();
        let available: Vec<_> = kernel::available().map(|k| k.isa().name()).collect();
        let setting = std::env::var_os("CORTEX_DISABLE_CPU");
        let setting = setting.map(|s| s.to_string_lossy().into_owned());
        let (off, unknown) = kernel::disabled();
        let off: Vec<_> = kernel::Isa::ALL
            .into_iter()
            .filter(|i| off.contains(i))
            .map(kernel::Isa::name)
            .collect();
        for word in &unknown {
            output::warn(&format!(
                "CORTEX_DISABLE_CPU: '{word}' names no instruction set that can be taken away"
            ));
        }
        let threads = rayon::current_num_threads();
        let (total, free) = (meminfo("MemTotal:"), meminfo("MemAvailable:"));
        let json = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "abi_version": ABI_VERSION,
            "format_version": format!("{}.{}", archive::MAJOR, archive::MINOR),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": cpu_name(),
            "cpu_features": features(),
            "kernels": {
                "chosen": chosen,
                "available": available,
                "names": kernel::KERNEL_NAMES,
            },
            "disable_cpu": {"value": setting, "disabled": off, "unknown": unknown},
            "threads": threads,
            "page_bytes": page_bytes(),
            "memory_bytes": total,
            "memory_available_bytes": free,
            "importers": import::IMPORTERS.iter().map(|i| json!({
                "name": i.name,
                "summary": i.summary,
                "extensions": i.extensions,
            })).collect::<Vec<_>>(),
        });

        let or_unknown = |v: Option<u64>| v.map_or("unknown".into(), text::bytes);
        let mut lines = vec![
            (
                "cortex",
                format!(
                    "{}, ABI {ABI_VERSION}, archive format {}.{}",
                    env!("CARGO_PKG_VERSION"),
                    archive::MAJOR,
                    archive::MINOR
                ),
            ),
            (
                "system",
                format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
            ),
            ("cpu", cpu_name().unwrap_or("unknown".into())),
            ("features", words(&features())),
            (
                "kernels",
                format!("{chosen} (this CPU runs {})", available.join(", ")),
            ),
            (
                "disabled",
                match &setting {
                    None => "none (CORTEX_DISABLE_CPU is not set)".into(),
                    Some(value) => format!("{} (CORTEX_DISABLE_CPU={value})", words(&off)),
                },
            ),
            ("threads", threads.to_string()),
            (
                "memory",
                format!(
                    "{}, {} available, pages of {}",
                    or_unknown(total),
                    or_unknown(free),
                    or_unknown(page_bytes())
                ),
            ),
        ];
        let widest = import::IMPORTERS.iter().map(|i| i.name.len()).max();
        let widest = widest.unwrap_or(0);
        for (i, importer) in import::IMPORTERS.iter().enumerate() {
            let label = if i == 0 { "imports" } else { "" };
            lines.push((
                label,
                format!("{:<widest$}  {}", importer.name, importer.summary),
            ));
        }
        let lines = lines
            .iter()
            .map(|(label, value)| format!("{label:<10} {}\n", text::printable(value)));
        Ok(Done {
            text: lines.collect(),
            json,
        })
    }
}

fn words(list: &[&str]) -> String {
    match list {
        [] => "none".into(),
        list => list.join(" "),
    }
}

/// CPU features that kernels use or may come to use.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detected {
            ($($f:tt),*) => {
                [$(($f, std::arch::is_x86_feature_detected!($f))),*]
            };
        }
        detected!(
            "sse4.2",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "bmi1",
            "bmi2",
            "popcnt",
            "lzcnt",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512dq",
            "avx512cd",
            "avx512vbmi",
            "avx512vnni",
            "avx512bf16",
            "avx512fp16",
            "avx512vpopcntdq"
        )
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name))
        .collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detected {
            ($($f:tt),*) => {
                [$(($f, std::arch::is_aarch64_feature_detected!($f))),*]
            };
        }
        detected!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2")
            .into_iter()
            .filter_map(|(name, has)| has.then_some(name))
            .collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

/// As Linux tells it; other systems have no file for it.
fn cpu_name() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn meminfo(key: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix(key))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

/// Entry 6 (AT_PAGESZ) of the list of pairs that Linux hands every process.
fn page_bytes() -> Option<u64> {
    const WORD: usize = size_of::<usize>();
    let words = fs::read("/proc/self/auxv").ok()?;
    let (words, _) = words.as_chunks::<WORD>();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = pairs.iter().find(|p| usize::from_ne_bytes(p[0]) == 6)?;
    Some(usize::from_ne_bytes(pair[1]) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_its_page_and_memory() {
        assert!(page_bytes().is_some_and(u64::is_power_of_two));
        assert!(meminfo("MemTotal:").is_some_and(|n| n > 1 << 20));
    }

    #[test]
    fn values_of_json_are_one_object() {
        let done = Args {}.run().unwrap();
        assert!(done.json.is_object());
    }
}
