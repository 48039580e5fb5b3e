//! Input planes laid out for the loops of `kernel::conv`: padded, and cut into
//! the sequences of samples that taps step through.

/// What the outputs of one axis see: output j sees by tap t the sample
/// `j · step + starts[t]`, which is 0 outside `0..len`.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Samples of the input.
    pub(super) len: usize,
    /// Samples from one output to the next.
    pub(super) step: usize,
    /// The first output's sample, by tap.
    pub(super) starts: Vec<isize>,
}

impl Sight {
    /// Whether every tap of every one of `n` outputs falls on a sample, and neighbours on
    /// neighbours.
    fn is_plain(&self, n: usize) -> bool {
        let inside = |s: &isize| *s >= 0 && *s as usize + n <= self.len;
        self.step == 1 && self.starts.iter().all(inside)
    }
}

/// Sequences of samples a step apart. Taps whose places differ by whole steps see the same
/// sequence, shifted; where taps are so far apart that this would hold more samples than
/// outputs use, each has one of its own.
#[derive(Clone, Debug)]
struct Tracks {
    /// Sample 0 of each track, for output 0.
    firsts: Vec<isize>,
    /// Track and shift of each tap.
    taps: Vec<(usize, usize)>,
    /// Samples of a track beside one for each output.
    extra: usize,
}

impl Tracks {
    fn new(sight: &Sight, outputs: usize) -> Self {
        let step = sight.step as isize;
        let mut order: Vec<usize> = (0..sight.starts.len()).collect();
        order.sort_by_key(|t| (sight.starts[*t].rem_euclid(step), sight.starts[*t]));
        let mut shared = Self {
            firsts: Vec::new(),
            taps: vec![(0, 0); order.len()],
            extra: 0,
        };
        let mut phase = None;
        for tap in order {
            let start = sight.starts[tap];
            if phase != Some(start.rem_euclid(step)) {
                phase = Some(start.rem_euclid(step));
                shared.firsts.push(start);
            }
            let track = shared.firsts.len() - 1;
            let shift = ((start - shared.firsts[track]) / step) as usize;
            shared.taps[tap] = (track, shift);
            shared.extra = shared.extra.max(shift);
        }
        let held = (outputs.saturating_add(shared.extra)).saturating_mul(shared.firsts.len());
        if held <= outputs.saturating_mul(sight.starts.len()) {
            return shared;
        }
        Self {
            firsts: sight.starts.clone(),
            taps: (0..sight.starts.len()).map(|t| (t, 0)).collect(),
            extra: 0,
        }
    }
}

/// The part of a track that lies on samples: for places `first + i · step` of `count`,
/// those i, of which the first and the one past the last are given.
pub(super) fn inside(first: isize, step: usize, count: usize, len: usize) -> (usize, usize) {
    let before = match first {
        f if f >= 0 => 0,
        f => f.unsigned_abs().div_ceil(step).min(count),
    };
    // Places below `len`: the sum cannot pass the padded length, which is a signed number.
    let end = match (len as isize).saturating_sub(first) {
        room if room <= 0 => 0,
        room => (room as usize).div_ceil(step).min(count),
    };
    (before, end.max(before))
}

/// How what outputs see of a plane is laid out.
#[derive(Debug)]
pub(super) struct Lines {
    sights: [Sight; 2],
    tracks: [Tracks; 2],
    /// Planes are used where they lie.
    pub(super) in_place: bool,
}

/// Planes that begin a multiple of this apart share the sets of the first cache.
const ALIAS: usize = 1024;

impl Lines {
    /// `sights` of height and width. `all` are the outputs of the whole plane, `size` the
    /// rows and columns of those that are computed at once.
    pub(super) fn new(sights: [Sight; 2], all: [usize; 2], size: [usize; 2]) -> Self {
        let plane = sights[0].len * sights[1].len;
        let plain = (0..2).all(|i| sights[i].is_plain(all[i]));
        Self {
            tracks: [0, 1].map(|i| Tracks::new(&sights[i], size[i])),
            in_place: plain && !plane.is_multiple_of(ALIAS),
            sights,
        }
    }

    /// The layout for a rectangle of outputs.
    pub(super) fn layout(&self, size: [usize; 2]) -> Layout<'_> {
        let (mut pitch, mut plane) = (self.sights[1].len, self.sights[0].len * self.sights[1].len);
        if !self.in_place {
            let [y, x] = &self.tracks;
            pitch = size[1].saturating_add(x.extra);
            let rows = size[0].saturating_add(y.extra);
            let rows = rows.saturating_mul(y.firsts.len() * x.firsts.len());
            plane = rows.saturating_mul(pitch);
            if plane.is_multiple_of(ALIAS) {
                plane = plane.saturating_add(16);
            }
        }
        Layout {
            lines: self,
            size,
            pitch,
            plane,
        }
    }
}

/// [`Lines`] of a rectangle of outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    lines: &'a Lines,
    /// Outputs: rows and columns.
    pub(super) size: [usize; 2],
    /// Elements from what an output sees to what the one below it sees.
    pub(super) pitch: usize,
    /// Elements of a plane.
    pub(super) plane: usize,
}

impl Layout<'_> {
    /// Where the first output's sample lies, by taps along height and width.
    fn place(&self, y: usize, x: usize) -> usize {
        let Lines { sights, tracks, .. } = self.lines;
        if self.lines.in_place {
            return sights[0].starts[y] as usize * self.pitch + sights[1].starts[x] as usize;
        }
        let ((y_track, y_shift), (x_track, x_shift)) = (tracks[0].taps[y], tracks[1].taps[x]);
        let rows = self.size[0] + tracks[0].extra;
        let track = x_track * tracks[0].firsts.len() + y_track;
        (track * rows + y_shift) * self.pitch + x_shift
    }

    /// Where tap `t` of a plane finds the first output's sample.
    pub(super) fn sample(&self, t: usize) -> usize {
        let across = self.lines.sights[1].starts.len();
        self.place(t / across, t % across)
    }

    /// Where the output `origin` of a plane that is used in place has what it sees.
    pub(super) fn base(&self, origin: [usize; 2]) -> usize {
        match self.lines.in_place {
            true => origin[0] * self.pitch + origin[1],
            false => 0,
        }
    }

    /// Lays out what the rectangle from output `origin` sees of a plane. Only samples are
    /// written: what stands for padding must be 0 already, and stays so for all planes of
    /// the same layout and origin.
    pub(super) fn fill(&self, plane: &[f32], origin: [usize; 2], out: &mut [f32]) {
        let [y, x] = &self.lines.sights;
        let [y_tracks, x_tracks] = &self.lines.tracks;
        let (rows, cols) = (self.size[0] + y_tracks.extra, self.pitch);
        let mut left = out;
        for x_first in &x_tracks.firsts {
            let first = x_first + (origin[1] * x.step) as isize;
            let (before, end) = inside(first, x.step, cols, x.len);
            let from = (first + (before * x.step) as isize).max(0) as usize;
            for y_first in &y_tracks.firsts {
                let top = y_first + (origin[0] * y.step) as isize;
                let (above, below) = inside(top, y.step, rows, y.len);
                let (track, rest) = left.split_at_mut(rows * cols);
                left = rest;
                if before == end {
                    continue;
                }
                let lines = track.chunks_exact_mut(cols).enumerate();
                for (r, line) in lines.take(below).skip(above) {
                    let row = (top + (r * y.step) as isize) as usize * x.len;
                    let row = &plane[row + from..row + x.len];
                    let line = &mut line[before..end];
                    match x.step {
                        1 => line.copy_from_slice(&row[..line.len()]),
                        2 => {
                            let (pairs, last) = row.as_chunks::<2>();
                            let whole = line.len().min(pairs.len());
                            let (head, tail) = line.split_at_mut(whole);
                            head.iter_mut().zip(pairs).for_each(|(l, p)| *l = p[0]);
                            tail.iter_mut().zip(last).for_each(|(l, s)| *l = *s);
                        }
                        step => {
                            let samples = row.iter().step_by(step);
                            line.iter_mut().zip(samples).for_each(|(l, s)| *l = *s);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tap of every output finds the sample that the definition names.
    #[test]
    fn taps_find_their_samples() {
        let axes: [(usize, usize, &[isize]); 9] = [
            (7, 1, &[-1, 0, 1]),
            (9, 2, &[-1, 0, 1]),
            (10, 3, &[0, 2, 4, 6]),
            (5, 1, &[0]),
            (4, 1, &[3, 2, 1, -2]),
            (6, 1, &[-40, 0, 40]),
            (3, 7, &[-3, -2, 1]),
            (0, 1, &[-1, 0]),
            (64, 1, &[0, 1, 2]),
        ];
        for (h, y_step, y_starts) in axes {
            for (w, x_step, x_starts) in axes {
                let sight = |len, step, starts: &[isize]| Sight {
                    len,
                    step,
                    starts: starts.to_vec(),
                };
                let sights = [sight(h, y_step, y_starts), sight(w, x_step, x_starts)];
                let plane: Vec<f32> = (0..h * w).map(|i| i as f32 + 1.0).collect();
                let sample = |y: isize, x: isize| {
                    let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
                    if inside {
                        plane[y as usize * w + x as usize]
                    } else {
                        0.0
                    }
                };
                for all in [[1, 1], [3, 5], [2, 62], [5, 4]] {
                    for (origin, size) in [([0, 0], all), ([all[0] - 1, all[1] / 2], [1, 1])] {
                        let lines = Lines::new(sights.clone(), all, size);
                        let layout = lines.layout(size);
                        let mut copy = vec![0.0; layout.plane];
                        let held = match lines.in_place {
                            true => &plane[layout.base(origin)..],
                            false => {
                                layout.fill(&plane, origin, &mut copy);
                                &copy
                            }
                        };
                        for t in 0..y_starts.len() * x_starts.len() {
                            for y in 0..size[0] {
                                for x in 0..size[1] {
                                    let (ty, tx) = (t / x_starts.len(), t % x_starts.len());
                                    let expected = sample(
                                        ((origin[0] + y) * y_step) as isize + y_starts[ty],
                                        ((origin[1] + x) * x_step) as isize + x_starts[tx],
                                    );
                                    let at = layout.sample(t) + y * layout.pitch + x;
                                    assert_eq!(held[at], expected);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
