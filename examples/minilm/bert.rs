//! A BERT encoder that reads its weights from an archive and never unpacks them.

use std::path::Path;

use cortex::Tensor;
use cortex::archive::Archive;

use crate::Result;

/// The sizes that `config.json` states.
pub struct Config {
    hidden: usize,
    heads: usize,
    layers: usize,
    norm_eps: f32,
}

impl Config {
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let number = |key: &str| {
            let value = json[key].as_f64();
            value.ok_or_else(|| format!("{}: no number '{key}'", path.display()))
        };
        Ok(Self {
            hidden: number("hidden_size")? as usize,
            heads: number("num_attention_heads")? as usize,
            layers: number("num_hidden_layers")? as usize,
            norm_eps: number("layer_norm_eps")? as f32,
        })
    }
}

pub struct Bert<'a> {
    config: &'a Config,
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    merge: Linear,
    attention_norm: Norm,
    widen: Linear,
    narrow: Linear,
    output_norm: Norm,
}

impl<'a> Bert<'a> {
    pub fn open(archive: &Archive, config: &'a Config) -> Result<Self> {
        let table = |name: &str| archive.tensor(&format!("embeddings.{name}_embeddings.weight"));
        let layer = |i: usize| -> Result<Layer> {
            let linear = |name: &str| Linear::open(archive, &format!("encoder.layer.{i}.{name}"));
            let norm = |name: &str| {
                let name = format!("encoder.layer.{i}.{name}.LayerNorm");
                Norm::open(archive, &name, config.norm_eps)
            };
            Ok(Layer {
                query: linear("attention.self.query")?,
                key: linear("attention.self.key")?,
                value: linear("attention.self.value")?,
                merge: linear("attention.output.dense")?,
                attention_norm: norm("attention.output")?,
                widen: linear("intermediate.dense")?,
                narrow: linear("output.dense")?,
                output_norm: norm("output")?,
            })
        };
        Ok(Self {
            words: table("word")?,
            positions: table("position")?,
            types: table("token_type")?,
            norm: Norm::open(archive, "embeddings.LayerNorm", config.norm_eps)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            config,
        })
    }

    /// One vector of length 1 for a sentence: the mean of the last layer over its tokens.
    pub fn embed(&self, ids: &[usize]) -> Result<Vec<f32>> {
        let hidden = self.config.hidden;
        let mut x = vec![0.0; ids.len() * hidden];
        let mut row = vec![0.0; hidden];
        for (position, (&id, x)) in ids.iter().zip(x.chunks_exact_mut(hidden)).enumerate() {
            let parts = [
                (&self.words, id),
                (&self.positions, position),
                (&self.types, 0),
            ];
            for (table, i) in parts {
                // One row of a compressed table, not the table.
                table.decode_rows_f32(i..i + 1, &mut row)?;
                add(x, &row);
            }
        }
        self.norm.apply(&mut x);
        for layer in &self.layers {
            layer.apply(&mut x, self.config)?;
        }
        let mut mean = vec![0.0; hidden];
        x.chunks_exact(hidden).for_each(|x| add(&mut mean, x));
        let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
        mean.iter_mut().for_each(|v| *v /= length);
        Ok(mean)
    }
}

impl Layer {
    fn apply(&self, x: &mut [f32], config: &Config) -> Result<()> {
        let tokens = x.len() / config.hidden;
        let (q, k, v) = (
            self.query.apply(x, tokens)?,
            self.key.apply(x, tokens)?,
            self.value.apply(x, tokens)?,
        );
        let mixed = attention(&q, &k, &v, config);
        add(x, &self.merge.apply(&mixed, tokens)?);
        self.attention_norm.apply(x);

        let mut wide = self.widen.apply(x, tokens)?;
        wide.iter_mut().for_each(|v| *v = gelu(*v));
        add(x, &self.narrow.apply(&wide, tokens)?);
        self.output_norm.apply(x);
        Ok(())
    }
}

/// `softmax(q · kᵀ / √d) · v`, for each head on its own columns; every token sees all.
fn attention(q: &[f32], k: &[f32], v: &[f32], config: &Config) -> Vec<f32> {
    let (hidden, width) = (config.hidden, config.hidden / config.heads);
    let scale = 1.0 / (width as f32).sqrt();
    let mut out = vec![0.0; q.len()];
    for (out, q) in out.chunks_exact_mut(hidden).zip(q.chunks_exact(hidden)) {
        for head in 0..config.heads {
            let columns = head * width..(head + 1) * width;
            let scores = k.chunks_exact(hidden).map(|k| {
                let pairs = q[columns.clone()].iter().zip(&k[columns.clone()]);
                scale * pairs.map(|(q, k)| q * k).sum::<f32>()
            });
            let mut weights: Vec<f32> = scores.collect();
            softmax(&mut weights);
            for (weight, v) in weights.iter().zip(v.chunks_exact(hidden)) {
                let pairs = out[columns.clone()].iter_mut().zip(&v[columns.clone()]);
                pairs.for_each(|(out, v)| *out += weight * v);
            }
        }
    }
    out
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Abramowitz and Stegun, *Handbook of Mathematical Functions*, 7.1.26; within 1.5e-7.
fn erf(x: f32) -> f32 {
    const A: [f32; 5] = [
        1.061_405_4,
        -1.453_152_1,
        1.421_413_8,
        -0.284_496_72,
        0.254_829_6,
    ];
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let sum = t * A.iter().fold(0.0, |sum, a| sum * t + a);
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

struct Linear {
    weight: Tensor,
    bias: Vec<f32>,
}

impl Linear {
    fn open(archive: &Archive, name: &str) -> Result<Self> {
        Ok(Self {
            weight: archive.tensor(&format!("{name}.weight"))?,
            bias: vector(archive, &format!("{name}.bias"))?,
        })
    }

    /// `x · Wᵀ + b`, on the compressed `W`.
    fn apply(&self, x: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let mut y = vec![0.0; tokens * self.weight.rows()];
        self.weight.matmul(x, tokens, &mut y, &Default::default())?;
        y.chunks_exact_mut(self.bias.len())
            .for_each(|y| add(y, &self.bias));
        Ok(y)
    }
}

struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    eps: f32,
}

impl Norm {
    fn open(archive: &Archive, name: &str, eps: f32) -> Result<Self> {
        Ok(Self {
            scale: vector(archive, &format!("{name}.weight"))?,
            shift: vector(archive, &format!("{name}.bias"))?,
            eps,
        })
    }

    /// Brings each token to mean 0 and variance 1, then scales and shifts.
    fn apply(&self, x: &mut [f32]) {
        let n = self.scale.len();
        for x in x.chunks_exact_mut(n) {
            let mean = x.iter().sum::<f32>() / n as f32;
            let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n as f32;
            let inverse = 1.0 / (variance + self.eps).sqrt();
            for ((v, scale), shift) in x.iter_mut().zip(&self.scale).zip(&self.shift) {
                *v = (*v - mean) * inverse * scale + shift;
            }
        }
    }
}

/// A bias or a norm: small, stored lossless, decoded once.
fn vector(archive: &Archive, name: &str) -> Result<Vec<f32>> {
    let tensor = archive.tensor(name)?;
    let mut out = vec![0.0; tensor.rows() * tensor.cols()];
    tensor.decode_rows_f32(0..tensor.rows(), &mut out)?;
    Ok(out)
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
