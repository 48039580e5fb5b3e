//! WordPiece, as uncased BERT models want it: text to the ids of `vocab.txt`.

use std::collections::HashMap;
use std::path::Path;

use crate::Result;

/// Longer words are unknown: no entry of the vocabulary could help them.
const MAX_WORD_CHARS: usize = 100;

pub struct Tokenizer {
    vocab: HashMap<String, usize>,
    unknown: usize,
    start: usize,
    end: usize,
}

impl Tokenizer {
    /// Reads a vocabulary: one piece a line, the line's number is its id.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let vocab: HashMap<_, _> = text.lines().map(str::to_owned).zip(0..).collect();
        let special = |piece: &str| {
            let id = vocab.get(piece).copied();
            id.ok_or_else(|| format!("{}: no {piece} in it", path.display()))
        };
        Ok(Self {
            unknown: special("[UNK]")?,
            start: special("[CLS]")?,
            end: special("[SEP]")?,
            vocab,
        })
    }

    /// `[CLS]`, the pieces of the text, `[SEP]`; at most `limit` ids.
    pub fn encode(&self, text: &str, limit: usize) -> Vec<usize> {
        let mut ids = vec![self.start];
        for word in words(text) {
            self.push_pieces(&word, &mut ids);
        }
        ids.truncate(limit - 1);
        ids.push(self.end);
        ids
    }

    /// The longest piece that the word begins with, then the longest `##` piece that the
    /// rest begins with, and so on; one `[UNK]` if that comes to a dead end.
    fn push_pieces(&self, word: &[char], ids: &mut Vec<usize>) {
        let known = ids.len();
        let mut start = 0;
        while start < word.len() {
            let prefix = if start == 0 { "" } else { "##" };
            let piece = (start + 1..=word.len()).rev().find_map(|end| {
                let text: String = prefix
                    .chars()
                    .chain(word[start..end].iter().copied())
                    .collect();
                self.vocab.get(&text).map(|&id| (id, end))
            });
            let Some((id, end)) = piece.filter(|_| word.len() <= MAX_WORD_CHARS) else {
                ids.truncate(known);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            start = end;
        }
    }
}

/// Lower case without accents, cut at white space; punctuation and ideographs stand alone.
fn words(text: &str) -> Vec<Vec<char>> {
    let mut words = vec![Vec::new()];
    for c in text.chars().flat_map(char::to_lowercase) {
        let c = without_accent(c);
        if c.is_whitespace() {
            words.push(Vec::new());
        } else if is_punctuation(c) || is_ideograph(c) {
            words.extend([vec![c], Vec::new()]);
        } else if !is_dropped(c) {
            words.last_mut().expect("it begins with one").push(c);
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// The base of the accented letters of western and central Europe; others stay.
fn without_accent(c: char) -> char {
    const FAMILIES: [(char, &str); 19] = [
        ('a', "àáâãäåāăąǎ"),
        ('c', "çćĉċč"),
        ('d', "ď"),
        ('e', "èéêëēĕėęě"),
        ('g', "ĝğġģǧ"),
        ('h', "ĥ"),
        ('i', "ìíîïĩīĭįǐ"),
        ('j', "ĵ"),
        ('k', "ķ"),
        ('l', "ĺļľ"),
        ('n', "ñńņň"),
        ('o', "òóôõöōŏőǒ"),
        ('r', "ŕŗř"),
        ('s', "śŝşšș"),
        ('t', "ţťț"),
        ('u', "ùúûüũūŭůűųǔ"),
        ('w', "ŵ"),
        ('y', "ýÿŷ"),
        ('z', "źżž"),
    ];
    if c.is_ascii() {
        return c;
    }
    let family = FAMILIES.iter().find(|(_, letters)| letters.contains(c));
    family.map_or(c, |&(base, _)| base)
}

/// Combining accents, control and format characters, and what stands for a broken one.
fn is_dropped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fffd}')
}

/// All of ASCII that is neither letter nor digit counts, `$` and `+` too.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '¡' | '§' | '«' | '¶' | '·' | '»' | '¿')
        || matches!(c, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}')
        || matches!(c, '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}')
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}
