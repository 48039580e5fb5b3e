//! Numbers, shapes and names as people read them.

use std::borrow::Cow;

/// `512 B`, `86.7 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // What would round to 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `384×1536`; `scalar` without dimensions.
pub(crate) fn shape(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "scalar".into();
    }
    let dims: Vec<_> = dims.iter().map(usize::to_string).collect();
    dims.join("×")
}

/// A relative error: `exact`, `0.57 %`.
pub(crate) fn error(relative: f64) -> String {
    let percent = relative * 100.0;
    match percent {
        0.0 => "exact".into(),
        p if !p.is_finite() => "n/a".into(),
        p if p >= 10.0 => format!("{p:.1} %"),
        p if p >= 0.1 => format!("{p:.2} %"),
        p if p >= 0.001 => format!("{p:.4} %"),
        p => format!("{p:.1e} %"),
    }
}

/// `44.9 dB`; nothing when exact.
pub(crate) fn decibel(db: Option<f64>) -> String {
    match db {
        Some(db) if db.is_finite() => format!("{db:.1} dB"),
        _ => String::new(),
    }
}

/// `3.76×`; a dash when nothing is stored.
pub(crate) fn ratio(raw: u64, stored: u64) -> String {
    if stored == 0 {
        return "–".into();
    }
    let ratio = raw as f64 / stored as f64;
    let digits = if ratio >= 99.995 { 0 } else { 2 };
    format!("{ratio:.digits$}×")
}

/// `12 ms`, `1.24 s`, `2 min 5 s`.
pub(crate) fn seconds(s: f64) -> String {
    match s {
        s if s < 0.0005 => "<1 ms".into(),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 99.5 => format!("{s:.2} s"),
        s => format!("{} min {} s", s.round() as u64 / 60, s.round() as u64 % 60),
    }
}

/// `1 tensor`, `6 tensors`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Text from a file, safe to show: what would move the cursor, colour the terminal or
/// turn the writing direction is escaped.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_into_the_next_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(90_900_000), "86.7 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn errors_ratios_and_times_read_well() {
        assert_eq!(error(0.0), "exact");
        assert_eq!(error(0.0057), "0.57 %");
        assert_eq!(error(0.125), "12.5 %");
        assert_eq!(error(0.000123), "0.0123 %");
        assert_eq!(error(1e-7), "1.0e-5 %");
        assert_eq!(error(f64::INFINITY), "n/a");
        assert_eq!(error(f64::NAN), "n/a");
        assert_eq!(ratio(10, 0), "–");
        assert_eq!(ratio(300, 100), "3.00×");
        assert_eq!(ratio(12_345, 100), "123×");
        assert_eq!(seconds(0.0001), "<1 ms");
        assert_eq!(seconds(0.0423), "42 ms");
        assert_eq!(seconds(0.99999), "1.00 s");
        assert_eq!(seconds(125.2), "2 min 5 s");
        assert_eq!(shape(&[]), "scalar");
        assert_eq!(shape(&[384, 1536]), "384×1536");
        assert_eq!(count(1, "tensor"), "1 tensor");
        assert_eq!(count(0, "tensor"), "0 tensors");
    }

    #[test]
    fn what_would_fool_a_terminal_is_escaped() {
        assert_eq!(printable("größe 重み"), "größe 重み");
        assert_eq!(printable("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
