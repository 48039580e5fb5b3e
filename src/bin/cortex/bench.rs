//! `cortex bench`: times products on the compressed form, after checking them, and the limits
//! of the machine that they are held against.

use std::io::BufRead as _;
use std::str::FromStr;
use std::time::{Duration, Instant};

use cortex::bytes::AlignedBytes;
use cortex::form::EncodeContext;
use cortex::kernel::probe::{self, Unit};
use cortex::pack::{Buffer, Chain, Store, StoredBuffer};
use cortex::{
    Computed, DType, Error, MatmulOptions, Tensor, View, form, kernel, matmul, plan, spec,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::compress::parse_spec;
use crate::failure::{Done, Failure, Outcome};
use crate::{output, text};

/// Time products with compressed weights on this machine
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Matmul(Matmul),
    Probe(Probe),
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::Matmul(args) => args.run(),
            Verb::Probe(args) => args.run(),
        }
    }
}

/// Time y = x·Wᵀ, or y = x·W, with random weights stored by a spec
///
/// Makes Gaussian weights from a fixed seed, encodes them, compares the product once with one
/// in f64 of the decoded weights, and then times whole calls: whatever a call does to x (sums,
/// quantised activations) counts.
///
/// Reported are the least and the median wall time of a call, the least CPU time that all
/// threads of the process spent on a call, the stored bytes of the weights, and the largest
/// error of an output, |y − ref| / (‖x‖·‖w‖/√IN), with --transposed √OUT: that is the size that
/// the product of two vectors of these lengths is expected to have, so one bad output shows, however many
/// good ones stand beside it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cortex bench matmul --spec 'int4(group=32)' --shape 4096x4096
  cortex bench matmul --spec mask --sparsity 90% --shape 11008x4096 --batch 64 --threads 2 --hot

Calls shorter than 50 µs are timed several at once, and the time divided by their number.

With --json one line: {\"peer\": \"cortex\", \"spec\", \"out\", \"inn\", \"B\", \"threads\", \"cold\": 0|1,
\"wbytes\", \"min_s\", \"med_s\", \"n\": calls timed, \"cpu_s\": null where the system does not tell,
\"kernel\": instruction set and precision, \"max_rel_error\"}.")]
struct Matmul {
    /// How the weights are stored, such as 'int4(group=32)'
    #[arg(short, long, value_name = "SPEC")]
    spec: String,

    /// Rows and columns of the weights: outputs x inputs
    #[arg(long, value_name = "OUTxIN", default_value = "4096x4096")]
    shape: Shape,

    /// Multiply by W, as gradients are, instead of by Wᵀ: x has OUT columns, y has IN
    #[arg(long)]
    transposed: bool,

    /// Rows of x
    #[arg(long, value_name = "B", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,

    /// Threads that compute
    #[arg(long, value_name = "T", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    #[command(flatten)]
    caches: Caches,

    /// Whether x may be rounded: where the weights' own error is far larger, always, or never
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,

    /// How long to time
    #[arg(
        long,
        value_name = "S",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    seconds: f64,

    /// Share of the weights that is zero, at random places, such as 90% or 0.9
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    sparsity: Option<String>,

    /// Time again for each line of stdin, {"B": 8, "cold": 1, "seconds": 0.5}, and print a line
    ///
    /// Fields left out are as the options say. Several programs can so be timed in turns, each
    /// keeping its weights. The last line, at the end of stdin, is {"answered": lines}.
    #[arg(long, hide = true, requires = "json")]
    serve: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Caches {
    /// Weights from memory: calls rotate through copies of more than 256 MB; the default
    #[arg(long)]
    cold: bool,

    /// Weights from the caches, where they fit: one copy
    #[arg(long)]
    hot: bool,
}

/// `4096x4096`.
#[derive(Clone, Copy, Debug)]
struct Shape {
    out: usize,
    inn: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |n: &str| n.parse().ok().filter(|n| *n > 0);
        let dims = text.split_once('x');
        dims.and_then(|(out, inn)| Some((parse(out)?, parse(inn)?)))
            .map(|(out, inn)| Self { out, inn })
            .ok_or_else(|| "expected OUTxIN, such as 4096x4096".into())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.out, self.inn)
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Precision {
    Auto,
    Fast,
    Exact,
}

/// Cold weights rotate through more bytes than this, which no cache holds.
const COLD_BYTES: u64 = 256_000_000;
/// Copies that are made at most. Weights below 16 kB are measured from the outer caches, by what
/// surrounds them more than by themselves.
const MOST_COPIES: u64 = 16_384;
/// What is timed at once takes at least this long, so that reading the clocks (0.1 – 0.5 µs)
/// does not show.
const SAMPLE: Duration = Duration::from_micros(50);
/// Samples that are taken however long one takes.
const LEAST_SAMPLES: usize = 3;
/// Above this an output has nothing to do with the product: 8-bit activations stay below 0.05.
const WRONG: f64 = 0.25;

impl Matmul {
    fn run(self) -> Outcome {
        check_seconds(self.seconds)?;
        let sparsity = self.sparsity()?;
        let weights = self.weights(sparsity)?;
        let pool = pool(self.threads)?;
        let mut bench = Bench {
            args: &self,
            copies: vec![weights],
            pool,
            checked: Vec::new(),
        };
        if self.serve {
            return bench.serve();
        }
        let line = bench.time(&Request::of(&self))?;
        Ok(Done {
            text: line.text(),
            json: line.json(),
        })
    }

    fn sparsity(&self) -> Result<f64, Box<Failure>> {
        let Some(text) = &self.sparsity else {
            return Ok(0.0);
        };
        let share = spec::parse_number(text).filter(|p| (0.0..1.0).contains(p));
        share.ok_or_else(|| {
            Failure::usage(format!(
                "--sparsity: expected a share below 100%, such as 90% or 0.9, found '{text}'"
            ))
        })
    }

    fn weights(&self, sparsity: f64) -> Result<Tensor, Box<Failure>> {
        let spec = parse_spec("--spec", &self.spec)?;
        let Shape { out, inn } = self.shape;
        let mut w = gaussian(out, inn, 1)?;
        if sparsity > 0.0 {
            w.par_chunks_mut(inn).enumerate().for_each(|(row, w)| {
                let mut random = Random::of(2, row);
                w.iter_mut()
                    .filter(|_| random.uniform() < sparsity)
                    .for_each(|w| *w = 0.0);
            });
        }
        let view = View::new(DType::F32, &[out, inn], bytemuck::cast_slice(&w))?;
        let tensor = plan::compress(&view, &spec, &EncodeContext::default())?;
        for note in tensor.notes() {
            output::warn(note);
        }
        Ok(tensor)
    }

    /// Columns of x and of y.
    fn widths(&self) -> (usize, usize) {
        let Shape { out, inn } = self.shape;
        match self.transposed {
            true => (out, inn),
            false => (inn, out),
        }
    }

    fn multiply(
        &self,
        weights: &Tensor,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
    ) -> cortex::Result<Computed> {
        match self.transposed {
            true => weights.matmul_t(x, batch, y, &self.options()),
            false => weights.matmul(x, batch, y, &self.options()),
        }
    }

    fn options(&self) -> MatmulOptions {
        MatmulOptions {
            threads: self.threads.into(),
            precision: match self.precision {
                Precision::Auto => matmul::Precision::Auto,
                Precision::Fast => matmul::Precision::Fast,
                Precision::Exact => matmul::Precision::Exact,
            },
            ..MatmulOptions::default()
        }
    }
}

fn pool(threads: u16) -> cortex::Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.into())
        .build()
        .map_err(|e| Error::internal(format!("cannot start {threads} threads: {e}")))
}

fn check_seconds(seconds: f64) -> Result<(), Box<Failure>> {
    if seconds > 0.0 && seconds <= 3600.0 {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--seconds: expected a number above 0 and up to 3600, found {seconds}"
    )))
}

/// What is timed, of one set of weights.
#[derive(Clone, Copy, Debug)]
struct Request {
    batch: usize,
    cold: bool,
    seconds: f64,
}

impl Request {
    fn of(args: &Matmul) -> Self {
        Self {
            batch: args.batch as usize,
            cold: !args.caches.hot,
            seconds: args.seconds,
        }
    }

    /// The same with what a line of stdin says instead.
    fn with(mut self, line: &str) -> Result<Self, Box<Failure>> {
        let wrong = || Failure::usage(format!("cannot read the request '{line}'"));
        let object: Value = serde_json::from_str(line).map_err(|_| wrong())?;
        for (key, value) in object.as_object().ok_or_else(wrong)? {
            match (key.as_str(), value.as_u64(), value.as_f64()) {
                ("B", Some(n @ 1..=65_536), _) => self.batch = n as usize,
                ("cold", Some(n @ 0..=1), _) => self.cold = n == 1,
                ("seconds", _, Some(n)) => {
                    check_seconds(n)?;
                    self.seconds = n;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(self)
    }
}

/// Weights ready to be multiplied.
struct Bench<'a> {
    args: &'a Matmul,
    /// The first as it was encoded, the others in memory of their own.
    copies: Vec<Tensor>,
    pool: rayon::ThreadPool,
    /// Batches whose product was found right, each with its largest error.
    checked: Vec<(usize, Checked)>,
}

#[derive(Clone, Copy, Debug)]
struct Checked {
    max_rel_error: f64,
    precision: &'static str,
}

impl Bench<'_> {
    fn serve(&mut self) -> Outcome {
        let default = Request::of(self.args);
        let mut answered = 0;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| Error::io("cannot read stdin", e))?;
            let line = self.time(&default.with(&line)?)?;
            output::print_json(&line.json());
            answered += 1;
        }
        Ok(Done {
            text: String::new(),
            json: json!({"answered": answered}),
        })
    }

    fn time(&mut self, request: &Request) -> Result<Line, Box<Failure>> {
        let (x_cols, y_cols) = self.args.widths();
        let wbytes = self.copies[0].stored_bytes();
        let count = match request.cold {
            true => (COLD_BYTES / wbytes.max(1) + 1).min(MOST_COPIES) as usize,
            false => 1,
        };
        let x = gaussian(request.batch, x_cols, 3)?;
        let mut y = vec![0.0; request.batch * y_cols];
        self.prepare(count, &x)?;
        let checked = match self.checked.iter().find(|(b, _)| *b == request.batch) {
            Some((_, checked)) => *checked,
            None => {
                let checked = self.check(&x, request.batch, &mut y)?;
                self.checked.push((request.batch, checked));
                checked
            }
        };
        let copies = &self.copies[..count];
        let times = self.pool.install(|| {
            let mut copies = copies.iter().cycle();
            Times::of(request.seconds, || {
                let weights = copies.next().expect("a cycle has no end");
                self.args
                    .multiply(weights, &x, request.batch, &mut y)
                    .map(|_| ())
            })
        })?;
        Ok(Line {
            spec: self.copies[0].spec().to_string(),
            shape: self.args.shape,
            transposed: self.args.transposed,
            request: *request,
            threads: self.args.threads,
            wbytes,
            times,
            checked,
        })
    }

    /// Makes copies up to `count`, and touches them, so that no page and no scratch is fresh.
    fn prepare(&mut self, count: usize, x: &[f32]) -> Result<(), Box<Failure>> {
        let (x_cols, y_cols) = self.args.widths();
        while self.copies.len() < count {
            let copy = self.copies[0].map_buffers(&mut copied)?;
            let mut y = vec![0.0; y_cols];
            self.pool
                .install(|| self.args.multiply(&copy, &x[..x_cols], 1, &mut y))?;
            self.copies.push(copy);
        }
        Ok(())
    }

    /// Multiplies once and compares with the product in f64 of the decoded weights.
    fn check(&self, x: &[f32], batch: usize, y: &mut [f32]) -> Result<Checked, Box<Failure>> {
        let weights = &self.copies[0];
        // A value that stays would pass for a result.
        y.fill(f32::NAN);
        let computed = self
            .pool
            .install(|| self.args.multiply(weights, x, batch, y))?;
        let max_rel_error = largest_error(weights, self.args.transposed, x, batch, y)?;
        if max_rel_error.is_nan() || max_rel_error > WRONG {
            return Err(Error::internal(format!(
                "the product with '{}' is wrong: an output is {max_rel_error} times its expected size off",
                weights.spec()
            ))
            .into());
        }
        Ok(Checked {
            max_rel_error,
            precision: match computed.precision {
                matmul::Precision::Fast => "fast",
                _ => "exact",
            },
        })
    }
}

/// The same bytes, packed as they were, in memory of their own.
fn copied(buffer: &Buffer) -> cortex::Result<Buffer> {
    let mut bytes = AlignedBytes::zeroed(buffer.stored_len() as usize)?;
    let mut at = 0;
    let chunks = buffer.write_chunks(|chunk| {
        let from = at;
        bytes[from..from + chunk.len()].copy_from_slice(chunk);
        at = (from + chunk.len()).next_multiple_of(cortex::pack::STORED_ALIGN as usize);
        Ok(from as u64)
    })?;
    let stored = StoredBuffer {
        chain: Chain::new(buffer.chain().terms(), buffer.chain().width())?,
        raw_len: buffer.len() as u64,
        chunk_len: buffer.chunk_len() as u64,
        chunks,
    };
    let len = bytes.len() as u64;
    Buffer::stored(stored, Store::Owned(bytes), len)
}

/// The largest `|y − ref| / (‖x_b‖·‖w_r‖ / √cols)` of all outputs, `ref` the product in f64 of
/// the decoded weights, or of their transpose; NaN if an output is no number.
fn largest_error(
    weights: &Tensor,
    transposed: bool,
    x: &[f32],
    batch: usize,
    y: &[f32],
) -> cortex::Result<f64> {
    /// Rows that a task decodes; in f64 they stay in the second-level cache.
    const ROWS: usize = 4;
    let (rows, cols) = (weights.rows(), weights.cols());
    let mut decoded = vec![0.0f32; rows * cols];
    weights.decode_rows_f32(0..rows, &mut decoded)?;
    let (rows, cols) = match transposed {
        true => {
            let columns = (0..rows * cols).into_par_iter();
            let at = |i: usize| decoded[i % rows * cols + i / rows];
            decoded = columns.map(at).collect();
            (cols, rows)
        }
        false => (rows, cols),
    };
    let x: Vec<f64> = x.par_iter().map(|v| f64::from(*v)).collect();
    let norms = |v: &[f64]| -> Vec<f64> {
        let rows = v.chunks_exact(cols);
        rows.map(|v| dot(v, v).sqrt()).collect()
    };
    let x_norms = norms(&x);
    let worst = |(task, w): (usize, &[f32])| {
        let w: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
        let w_norms = norms(&w);
        let mut worst = 0.0f64;
        for b in 0..batch {
            let x = &x[b * cols..][..cols];
            for (i, w) in w.chunks_exact(cols).enumerate() {
                let y = f64::from(y[b * rows + task * ROWS + i]);
                let error = (y - dot(x, w)).abs();
                let size = x_norms[b] * w_norms[i] / (cols as f64).sqrt();
                let relative = if error == 0.0 { 0.0 } else { error / size };
                // `max` would drop a NaN.
                if relative.is_nan() || relative > worst {
                    worst = relative;
                }
                if worst.is_nan() {
                    return worst;
                }
            }
        }
        worst
    };
    let larger = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    Ok(decoded
        .par_chunks(ROWS * cols)
        .enumerate()
        .map(worst)
        .reduce(|| 0.0, larger))
}

/// A product in f64, in eight sums that a compiler puts side by side.
fn dot(x: &[f64], w: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (x, x_tail) = x.as_chunks::<8>();
    let (w, w_tail) = w.as_chunks::<8>();
    for (x, w) in x.iter().zip(w) {
        for i in 0..8 {
            sums[i] += x[i] * w[i];
        }
    }
    let tail: f64 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w).sum();
    sums.iter().sum::<f64>() + tail
}

/// Seconds of one call.
#[derive(Clone, Copy, Debug)]
struct Times {
    least: f64,
    median: f64,
    calls: usize,
    /// Of all threads of the process; `None` where the system does not tell.
    cpu: Option<f64>,
}

impl Times {
    /// Times `call`, which has run before, for `seconds`.
    fn of(seconds: f64, mut call: impl FnMut() -> cortex::Result<()>) -> cortex::Result<Self> {
        let start = Instant::now();
        call()?;
        let one = start.elapsed().max(Duration::from_nanos(20));
        let calls = SAMPLE.as_nanos().div_ceil(one.as_nanos()) as usize;
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while walls.len() < LEAST_SAMPLES || start.elapsed().as_secs_f64() < seconds {
            let cpu = cpu_time();
            let wall = Instant::now();
            for _ in 0..calls {
                call()?;
            }
            walls.push(wall.elapsed().as_secs_f64() / calls as f64);
            if let (Some(before), Some(after)) = (cpu, cpu_time()) {
                cpus.push(after.saturating_sub(before).as_secs_f64() / calls as f64);
            }
        }
        walls.sort_by(f64::total_cmp);
        Ok(Self {
            least: walls[0],
            median: walls[walls.len() / 2],
            calls: calls * walls.len(),
            cpu: cpus.into_iter().min_by(f64::total_cmp),
        })
    }
}

/// CPU time of all threads of this process so far.
fn cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        clock_gettime(ClockId::ProcessCPUTime).try_into().ok()
    }
    #[cfg(not(unix))]
    None
}

/// One result.
#[derive(Debug)]
struct Line {
    spec: String,
    shape: Shape,
    transposed: bool,
    request: Request,
    threads: u16,
    wbytes: u64,
    times: Times,
    checked: Checked,
}

impl Line {
    fn kernel(&self) -> String {
        let isa = kernel::best().isa().name();
        format!("{isa}/{}", self.checked.precision)
    }

    fn json(&self) -> Value {
        json!({
            "peer": "cortex",
            "spec": self.spec,
            "out": self.shape.out,
            "inn": self.shape.inn,
            "B": self.request.batch,
            "threads": self.threads,
            "cold": u8::from(self.request.cold),
            "wbytes": self.wbytes,
            "min_s": self.times.least,
            "med_s": self.times.median,
            "n": self.times.calls,
            "cpu_s": self.times.cpu,
            "kernel": self.kernel(),
            "max_rel_error": self.checked.max_rel_error,
        })
    }

    fn text(&self) -> String {
        let Times {
            least,
            median,
            calls,
            cpu,
        } = self.times;
        let Shape { out, inn } = self.shape;
        let flops = 2.0 * self.request.batch as f64 * out as f64 * inn as f64;
        let cpu = cpu.map_or(String::new(), |s| format!(", CPU {}", short_seconds(s)));
        format!(
            "{}, {}{}, batch {}, {}, {}\n\
             time     {} least, {} median of {}{cpu}\n\
             rate     {:.1} GFLOP/s, {:.1} GB/s of weights ({})\n\
             kernel   {}\n\
             error    {:.1e} of an output's expected size, at most\n",
            self.spec,
            text::shape(&[out, inn]),
            if self.transposed { ", transposed" } else { "" },
            self.request.batch,
            text::count(self.threads.into(), "thread"),
            if self.request.cold { "cold" } else { "hot" },
            short_seconds(least),
            short_seconds(median),
            text::count(calls, "call"),
            flops / least / 1e9,
            self.wbytes as f64 / least / 1e9,
            text::bytes(self.wbytes),
            self.kernel(),
            self.checked.max_rel_error,
        )
    }
}

/// `812 ns`, `43.1 µs`, `2.35 ms`, `1.20 s`.
fn short_seconds(s: f64) -> String {
    match s {
        s if s < 0.9995e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 0.9995e-3 => format!("{:.3} µs", s * 1e6),
        s if s < 0.9995 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

/// Measure what this machine gives at most: memory reads and multiply-adds
///
/// Reads more than 256 MB of memory once and again, and runs multiply-adds in registers, on all
/// threads at once; the best of many short runs. Rates of products are told as shares of these.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cortex bench probe --threads 2

With --json one line: {\"threads\", \"kernel\", \"read_gbs\": bytes read in 1e9 a second,
\"f32_gflops\", \"bf16_gflops\", \"int8_gflops\": operations in 1e9 a second, two a multiply-add,
null where the CPU has no instructions for it}.")]
struct Probe {
    /// Threads that read and compute
    #[arg(long, value_name = "T", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    /// How long to measure, all in all
    #[arg(
        long,
        value_name = "S",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    seconds: f64,
}

impl Probe {
    fn run(self) -> Outcome {
        check_seconds(self.seconds)?;
        let pool = pool(self.threads)?;
        let read = self.read(&pool)?;
        let rates = [
            ("f32", Unit::F32),
            ("bf16", Unit::Bf16),
            ("int8", Unit::Int8),
        ]
        .map(|(name, unit)| (name, self.compute(&pool, unit)));
        let isa = kernel::best().isa().name();
        let mut json = json!({"threads": self.threads, "kernel": isa, "read_gbs": read});
        let mut text = format!(
            "{}, {isa}\nread     {read:.1} GB/s\n",
            text::count(self.threads.into(), "thread")
        );
        for (name, rate) in rates {
            json[format!("{name}_gflops")] = rate.into();
            let rate = rate.map_or("no instructions".into(), |r| format!("{r:.0} GFLOP/s"));
            text += &format!("{name:<8} {rate}\n");
        }
        Ok(Done { text, json })
    }

    /// The best of runs that go on for a quarter of the time; `run` gives what it has done.
    fn best(&self, mut run: impl FnMut() -> f64) -> f64 {
        let start = Instant::now();
        let mut best = 0.0f64;
        while best == 0.0 || start.elapsed().as_secs_f64() < self.seconds / 4.0 {
            let one = Instant::now();
            let done = run();
            best = best.max(done / one.elapsed().as_secs_f64() / 1e9);
        }
        best
    }

    fn read(&self, pool: &rayon::ThreadPool) -> cortex::Result<f64> {
        let mut memory = AlignedBytes::zeroed(COLD_BYTES as usize + (32 << 20))?;
        // Pages that were never written are all the same one.
        pool.install(|| memory.par_chunks_mut(1 << 20).for_each(|m| m.fill(1)));
        let words: &[u64] = bytemuck::cast_slice(&memory);
        let share = words.len().div_ceil(pool.current_num_threads());
        Ok(self.best(|| {
            let sums = pool.broadcast(|thread| {
                let mine = words.chunks(share).nth(thread.index());
                probe::read(kernel::best(), mine.unwrap_or_default())
            });
            std::hint::black_box(sums);
            size_of_val(words) as f64
        }))
    }

    fn compute(&self, pool: &rayon::ThreadPool, unit: Unit) -> Option<f64> {
        /// About 1 ms.
        const ROUNDS: u32 = 200_000;
        probe::compute(kernel::best(), unit, 1)?;
        Some(self.best(|| {
            let done = pool.broadcast(|_| probe::compute(kernel::best(), unit, ROUNDS));
            done.into_iter().flatten().sum::<u64>() as f64
        }))
    }
}

/// Seeded standard normals, `rows` × `cols`, each row from a seed of its own.
fn gaussian(rows: usize, cols: usize, seed: u64) -> Result<Vec<f32>, Box<Failure>> {
    let len = cortex::bytes::checked_mul(rows, cols)?;
    // Refuses, before memory is asked for, what no tensor may hold.
    form::Meta::new(DType::F32, &[rows, cols])?;
    let mut all = vec![0.0; len];
    all.par_chunks_mut(cols).enumerate().for_each(|(row, out)| {
        let mut random = Random::of(seed, row);
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * random.uniform().ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * random.uniform()).sin_cos();
            for (out, v) in pair.iter_mut().zip([cos, sin]) {
                *out = (radius * v) as f32;
            }
        }
    });
    Ok(all)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn of(seed: u64, row: usize) -> Self {
        let mut mixed = Self(seed << 40 ^ row as u64);
        Self(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Above 0 and at most 1.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}
