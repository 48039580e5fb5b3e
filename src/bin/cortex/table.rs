//! Tables: names left, numbers right, a rule under the header and over the total.
//!
//! On a terminal too narrow for all columns the less important ones are left out, and
//! names and specs wrap. Elsewhere lines are as long as they need to be.

use comfy_table::{CellAlignment, LineStyle, Table as Grid, TableStyle};
use cortex::model::TensorReport;
use cortex::plan::Verdict;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::text;

/// A column's heading and behaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    /// On a narrow terminal the highest goes first; 0 stays.
    rank: u8,
    /// Wraps after this character, down to a width of [`WRAPPED`].
    wrap: Option<char>,
}

/// Width that a column that wraps is left with at least.
const WRAPPED: usize = 18;
/// Blanks between columns.
const GAP: usize = 2;

impl Column {
    /// A column of words.
    pub(crate) const fn left(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            rank: 0,
            wrap: None,
        }
    }

    /// A column of numbers.
    pub(crate) const fn right(title: &'static str) -> Self {
        Self {
            right: true,
            ..Self::left(title)
        }
    }

    pub(crate) const fn rank(mut self, rank: u8) -> Self {
        self.rank = rank;
        self
    }

    pub(crate) const fn wrap(mut self, after: char) -> Self {
        self.wrap = Some(after);
        self
    }
}

/// A table that is being filled.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    total: Option<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            total: None,
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// A last row, under a rule.
    pub(crate) fn total(&mut self, cells: Vec<String>) {
        self.total = Some(cells);
    }

    /// The table for stdout, as wide as the terminal if it is one.
    pub(crate) fn render(self) -> String {
        let width = Grid::new().width();
        self.render_in(width)
    }

    fn render_in(mut self, width: Option<u16>) -> String {
        if let Some(width) = width {
            self.fit(usize::from(width));
        }
        let mut grid = Grid::new();
        grid.load_style(
            TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')),
        );
        grid.force_no_tty();
        grid.set_header(self.columns.iter().map(|c| c.title));
        for row in self.rows.iter().chain(&self.total) {
            grid.add_row(row);
        }
        let last = self.columns.len().saturating_sub(1);
        for (i, column) in self.columns.iter().enumerate() {
            let Some(c) = grid.column_mut(i) else {
                continue;
            };
            // The rule's junction takes the place of one blank.
            c.set_padding((0, if i == last { 0 } else { GAP as u16 - 1 }));
            if column.right {
                c.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut lines: Vec<String> = grid.lines().map(|l| l.trim_end().to_owned()).collect();
        if self.total.is_some() && lines.len() > 2 {
            let rule = lines[1].clone();
            lines.insert(lines.len() - 1, rule);
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Leaves columns out until the rest fits, then wraps those that may.
    fn fit(&mut self, width: usize) {
        let widths = loop {
            let widths = self.widths();
            let least = self.columns.iter().zip(&widths);
            let least: usize = least
                .map(|(c, w)| {
                    GAP + if c.wrap.is_some() {
                        WRAPPED.min(*w)
                    } else {
                        *w
                    }
                })
                .sum();
            let out = (0..self.columns.len()).max_by_key(|i| self.columns[*i].rank);
            let out = out.filter(|i| self.columns[*i].rank > 0 && least > width + GAP);
            let Some(out) = out else {
                break widths;
            };
            self.columns.remove(out);
            for row in self.rows.iter_mut().chain(&mut self.total) {
                row.remove(out);
            }
        };
        let mut wrapping: Vec<usize> = (0..widths.len())
            .filter(|i| self.columns[*i].wrap.is_some())
            .collect();
        let taken: usize = widths.iter().map(|w| w + GAP).sum();
        let wanted: usize = wrapping.iter().map(|i| widths[*i]).sum();
        let mut left = (width + GAP + wanted).saturating_sub(taken);
        // The narrowest first: what it does not need is for the others.
        wrapping.sort_by_key(|i| widths[*i]);
        let count = wrapping.len();
        for (n, i) in wrapping.into_iter().enumerate() {
            let share = (left / (count - n)).clamp(WRAPPED.min(widths[i]), widths[i]);
            left = left.saturating_sub(share);
            let Some(after) = self.columns[i].wrap else {
                continue;
            };
            for row in &mut self.rows {
                row[i] = wrapped(&row[i], after, share);
            }
        }
    }

    /// Widest cell of each column.
    fn widths(&self) -> Vec<usize> {
        let cells = |i: usize| self.rows.iter().chain(&self.total).map(move |row| &*row[i]);
        self.columns
            .iter()
            .enumerate()
            .map(|(i, c)| cells(i).chain([c.title]).map(UnicodeWidthStr::width).max())
            .map(Option::unwrap_or_default)
            .collect()
    }
}

/// Breaks `text` into lines of at most `width`, after the character `after` where that is
/// possible, in the middle of a word where it is not.
fn wrapped(text: &str, after: char, width: usize) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut used = 0;
    for piece in text.split_inclusive(after) {
        // A blank at the end of a line takes no room.
        if used > 0 && used + piece.trim_end().width() > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            used = 0;
        }
        for c in piece.chars() {
            let wide = c.width().unwrap_or(0);
            if used + wide > width && c != ' ' {
                out.push('\n');
                used = 0;
            }
            out.push(c);
            used += wide;
        }
    }
    out
}

/// What became of each tensor, with a total.
pub(crate) fn of_tensors(tensors: &[TensorReport]) -> Table {
    let timed = tensors.iter().any(|t| t.seconds.is_some());
    let mut columns = vec![
        Column::left("Tensor").wrap('.'),
        Column::left("Type").rank(4),
        Column::right("Shape").rank(3),
        Column::left("Spec").wrap(' '),
        Column::right("Raw").rank(6),
        Column::right("Stored"),
        Column::right("Ratio").rank(2),
        Column::right("Bits").rank(5),
        Column::right("Error").rank(1),
        Column::right("SQNR").rank(7),
    ];
    if timed {
        columns.push(Column::right("Time").rank(8));
    }
    let mut table = Table::new(&columns);
    let (mut raw, mut stored, mut weights, mut time) = (0u64, 0u64, 0u64, 0.0);
    for t in tensors {
        let n: u64 = t.shape.iter().map(|d| *d as u64).product();
        raw += t.raw_bytes;
        stored += t.stored_bytes;
        weights += n;
        time += t.seconds.unwrap_or(0.0);
        let mut row = vec![
            text::printable(&t.name).into_owned(),
            text::printable(&t.dtype).into_owned(),
            text::shape(&t.shape),
            text::printable(&t.spec).into_owned(),
            text::bytes(t.raw_bytes),
            text::bytes(t.stored_bytes),
            text::ratio(t.raw_bytes, t.stored_bytes),
            bits(t.stored_bytes, n),
            text::error(t.relative_error),
            text::decibel(t.sqnr_db),
        ];
        if timed {
            row.push(text::seconds(t.seconds.unwrap_or(0.0)));
        }
        table.row(row);
    }
    let mut total = vec![
        text::count(tensors.len(), "tensor"),
        String::new(),
        String::new(),
        String::new(),
        text::bytes(raw),
        text::bytes(stored),
        text::ratio(raw, stored),
        bits(stored, weights),
        String::new(),
        String::new(),
    ];
    if timed {
        total.push(text::seconds(time));
    }
    table.total(total);
    table
}

fn bits(stored: u64, weights: u64) -> String {
    match weights {
        0 => "–".into(),
        n => format!("{:.2}", stored as f64 * 8.0 / n as f64),
    }
}

/// Candidates of one tensor that are shown; the others are in the JSON.
const SHOWN: usize = 12;

/// What was measured for each tensor, where that was asked for.
pub(crate) fn candidates(tensors: &[TensorReport]) -> String {
    let mut out = String::new();
    for t in tensors {
        let Some(all) = &t.candidates else {
            continue;
        };
        out += &format!(
            "{} {} {}\n",
            text::printable(&t.name),
            text::printable(&t.dtype),
            text::shape(&t.shape)
        );
        if all.is_empty() {
            out += &format!("  stored as asked: {}\n\n", text::printable(&t.spec));
            continue;
        }
        let mut table = Table::new(&[
            Column::left("  Candidate").wrap(' '),
            Column::right("Bits"),
            Column::right("Error"),
            Column::right("SQNR").rank(3),
            Column::right("MACs").rank(1),
            Column::left("Read").rank(2),
            Column::left("Verdict").wrap(' '),
        ]);
        // The chosen one is always among them.
        let first = all.iter().filter(|c| c.verdict == Verdict::Chosen);
        let rest = all.iter().filter(|c| c.verdict != Verdict::Chosen);
        for c in first.chain(rest).take(SHOWN) {
            table.row(vec![
                format!("  {}", text::printable(&c.spec)),
                format!("{:.3}", c.bits_per_weight),
                text::error(c.relative_error),
                text::decibel(c.sqnr_db),
                format!("{:.2}×", c.cost),
                if c.in_place { "in place" } else { "decoded" }.into(),
                c.verdict.text().into(),
            ]);
        }
        out += &table.render();
        if all.len() > SHOWN {
            out += &format!("  and {} more (--json has all)\n", all.len() - SHOWN);
        }
        out.push('\n');
    }
    if !out.is_empty() {
        out += "Bits are stored bits per weight; MACs are multiplications of a product, 1 for dense.\n\
                Candidates are measured on a sample of large tensors, the chosen one on the whole.\n\n";
    }
    out
}

/// `aliases` below a table, a line each.
pub(crate) fn aliases<'a>(aliases: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    aliases
        .map(|(alias, target)| {
            let (alias, target) = (text::printable(alias), text::printable(target));
            format!("{alias} is another name of {target}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[
            Column::left("Tensor").wrap('.'),
            Column::right("Shape"),
            Column::right("Time").rank(1),
        ]);
        table.row(vec![
            "encoder.layer.0.attention.output.dense.weight".into(),
            "384×1536".into(),
            "12 ms".into(),
        ]);
        table.row(vec!["重み".into(), "1".into(), "<1 ms".into()]);
        table.total(vec!["2 tensors".into(), String::new(), "12 ms".into()]);
        table
    }

    #[test]
    fn a_pipe_gets_whole_lines() {
        let text = sample().render_in(None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[2].starts_with("encoder.layer.0.attention.output.dense.weight  384×1536"));
        assert!(lines[2].ends_with("  12 ms"));
        assert_eq!(lines[1], lines[4], "the rule stands over the total too");
        assert!(lines[5].starts_with("2 tensors") && lines[5].ends_with("12 ms"));
    }

    #[test]
    fn a_narrow_terminal_loses_columns_and_wraps_names() {
        let text = sample().render_in(Some(32));
        assert!(!text.contains("Time"), "{text}");
        assert!(text.contains("384×1536"), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 32, "{text}");
        }
        // Nothing of a name is lost.
        let names = text.lines().skip(2).map(|l| match l.find("  ") {
            Some(end) => &l[..end],
            None => l,
        });
        let names: String = names.collect();
        assert!(
            names.contains("encoder.layer.0.attention.output.dense.weight"),
            "{text}"
        );
    }

    #[test]
    fn lines_break_after_the_delimiter_or_where_they_must() {
        assert_eq!(wrapped("ab.cd.ef", '.', 6), "ab.cd.\nef");
        assert_eq!(wrapped("abcdefgh.ij", '.', 4), "abcd\nefgh\n.ij");
        assert_eq!(wrapped("dense | zstd(1)", ' ', 7), "dense |\nzstd(1)");
        assert_eq!(wrapped("重み重み", '.', 4), "重み\n重み");
        assert_eq!(wrapped("", '.', 4), "");
    }
}
