//! GGUF: files made anew, each of one to three mistakes, and changes of what the present one's header says.

use super::{another_number, few};
use crate::Random;
use crate::writer::{Gguf, TensorSpec, Value};

/// Of the metadata.
#[rustfmt::skip]
pub const WORDS: &[&str] = &[
    "GGUF", "general.architecture", "general.alignment", "split.count", "split.no", "tokenizer.ggml.model",
    "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
    "tokenizer.ggml.pre", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix", "gpt2", "llama",
    "llama-bpe", "qwen2", "deepseek-llm", "smollm", "<0x41>", "<0x-1>", "▁", "Ġ",
];

/// Type number, elements and bytes of a block, of what ggml has.
#[rustfmt::skip]
const TYPES: [(u32, usize, usize); 23] = [
    (0, 1, 4), (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (10, 256, 84), (11, 256, 110),
    (12, 256, 144), (13, 256, 176), (14, 256, 210), (20, 32, 18), (23, 256, 136), (24, 1, 1), (25, 1, 2), (26, 1, 4), (27, 1, 8),
    (28, 1, 8), (30, 1, 2), (34, 256, 54), (39, 32, 17), (99, 1, 1),
];
#[rustfmt::skip]
const PRES: [&str; 9] = [
    "default", "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-llm", "tekken", "starcoder", "none such",
];
#[rustfmt::skip]
const LETTERS: [&str; 18] = [
    "a", "b", "c", "H", "e", "l", "o", "Ġ", "▁", "1", "ab", "aa", "▁a", "Ġa", "漢", "abc", "<|im_end|>", "",
];

/// Change a file, or make one.
#[must_use]
pub fn mutate(data: &[u8], random: &mut Random) -> Vec<u8> {
    if random.one_in(3) {
        synthetic(random)
    } else {
        changed(data, random)
    }
}

/// The same for files that hold a vocabulary.
#[must_use]
pub fn vocabulary(data: &[u8], random: &mut Random) -> Vec<u8> {
    if random.one_in(2) {
        words(random)
    } else {
        changed(data, random)
    }
}

/// A file of random metadata and tensors.
fn synthetic(random: &mut Random) -> Vec<u8> {
    let mut file = Gguf::new();
    for number in 0..random.below(6) {
        file = file.pair(&format!("k.{number}"), value(random));
    }
    for number in 0..random.below(5) {
        let (type_number, elements, bytes) = *random.pick(&TYPES);
        let mut dimensions = vec![(elements * random.below(3)) as u64];
        dimensions.extend((0..random.below(4)).map(|_| random.below(3) as u64));
        let blocks = dimensions.iter().product::<u64>() / elements as u64;
        let data = (0..blocks * bytes as u64).map(|_| random.number().to_le_bytes()[0]);
        let data: Vec<u8> = data.collect();
        file = file.tensor(&format!("t.{number}"), &dimensions, type_number, &data);
    }
    for _ in 0..few(random) {
        spoil(&mut file, random);
    }
    file.bytes()
}

fn value(random: &mut Random) -> Value {
    let width = |type_number: usize| [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][type_number];
    let bytes = |length: usize, random: &mut Random| -> Vec<u8> {
        let any = (0..length).map(|_| random.number().to_le_bytes()[0] & *random.pick(&[0xff, 1]));
        any.collect()
    };
    match random.below(13) {
        8 => Value::string(random.pick::<&str>(WORDS)),
        9 if random.one_in(2) => Value::strings(&LETTERS[..random.below(LETTERS.len())]),
        9 => {
            let type_number = *random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12]);
            let count = random.below(5);
            let elements = bytes(count * width(type_number), random);
            Value::array(u32::try_from(type_number).unwrap_or(0), count, &elements)
        }
        type_number => Value {
            type_number: u32::try_from(type_number).unwrap_or(0),
            bytes: bytes(width(type_number), random),
        },
    }
}

/// One mistake.
fn spoil(file: &mut Gguf, random: &mut Random) {
    if random.one_in(2) && !file.tensors.is_empty() {
        let other = random.pick(&file.tensors).clone();
        let at = random.below(file.tensors.len());
        let tensor: &mut TensorSpec = &mut file.tensors[at];
        match random.below(6) {
            0 => tensor.name = other.name,
            1 => tensor.type_number = random.pick(&TYPES).0,
            2 => tensor.offset = Some(another_number(random.below(256) as u64, random)),
            3 => tensor.dimensions.push(*random.pick(&super::EXTREMES)),
            4 => drop(tensor.data.pop()),
            _ => {
                for dimension in &mut tensor.dimensions {
                    if random.one_in(2) {
                        *dimension = another_number(*dimension, random);
                    }
                }
            }
        }
        return;
    }
    match random.below(5) {
        0 => file.version = *random.pick(&[0, 1, 2, 4, 3 << 24]),
        1 => file.alignment = *random.pick(&[1, 8, 31, 64]),
        2 => {
            let alignment = Value::u32(*random.pick(&[0, 1, 3, 8, 64, 1 << 31, u32::MAX]));
            file.pairs.push(("general.alignment".to_owned(), alignment));
        }
        3 => {
            let copy = file.pairs.first().cloned();
            file.pairs.extend(copy);
        }
        _ => {
            let key = *random.pick(&["split.count", "split.no", "", "k.0"]);
            file.pairs.push((key.to_owned(), value(random)));
        }
    }
}

/// A file of a random vocabulary; one part in twelve is not what it should be.
fn words(random: &mut Random) -> Vec<u8> {
    let odd = |random: &mut Random| random.one_in(12);
    let is_pairs = random.one_in(2);
    let mut tokens: Vec<String> = LETTERS[..LETTERS.len() - 1]
        .iter()
        .map(|&each| each.to_owned())
        .collect();
    tokens.truncate(1 + random.below(tokens.len()));
    for _ in 0..random.below(12) {
        let (left, right) = (random.pick(&tokens).clone(), random.pick(&tokens).clone());
        tokens.push(match random.below(8) {
            0 => format!("<0x{:02X}>", random.below(256)),
            1 => (*random.pick(&LETTERS)).to_owned(),
            _ => format!("{left}{right}"),
        });
    }
    if !odd(random) {
        tokens.sort();
        tokens.dedup();
    }
    let kind = |token: &String, random: &mut Random| -> i32 {
        match random.below(12) {
            0 => i32::from(random.number().to_le_bytes()[0]) - 8,
            1..=3 => *random.pick(&[2, 3, 4, 5]),
            _ if token.starts_with("<0x") => 6,
            _ => 1,
        }
    };
    let types: Vec<u8> = tokens
        .iter()
        .flat_map(|token| kind(token, random).to_le_bytes())
        .collect();
    let score = |random: &mut Random| match random.below(8) {
        0 => *random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]),
        number => -(f32::from(u8::try_from(number).unwrap_or(0))),
    };
    let scores: Vec<u8> = tokens
        .iter()
        .flat_map(|_| score(random).to_le_bytes())
        .collect();
    let merge = |random: &mut Random| match random.below(12) {
        0 => random.pick(&tokens).clone(),
        1 => format!("{}  {}", random.pick(&tokens), random.pick(&tokens)),
        _ => format!("{} {}", random.pick(&tokens), random.pick(&tokens)),
    };
    let merges: Vec<String> = (0..random.below(12)).map(|_| merge(random)).collect();
    let texts =
        |texts: &[String]| Value::strings(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let count = tokens.len() - usize::from(odd(random));
    let mut file = Gguf::new()
        .pair(
            "tokenizer.ggml.model",
            Value::string(if is_pairs { "gpt2" } else { "llama" }),
        )
        .pair("tokenizer.ggml.tokens", texts(&tokens))
        .pair(
            "tokenizer.ggml.token_type",
            Value::array(5, count, &types[..4 * count]),
        );
    if is_pairs ^ odd(random) {
        file = file.pair("tokenizer.ggml.merges", texts(&merges));
        file = file.pair(
            "tokenizer.ggml.pre",
            Value::string(random.pick::<&str>(&PRES)),
        );
    } else {
        file = file.pair(
            "tokenizer.ggml.scores",
            Value::array(6, count, &scores[..4 * count]),
        );
    }
    for key in ["bos", "eos", "eot", "eom", "unknown", "padding"] {
        if random.one_in(2) {
            let ids = tokens.len() + usize::from(odd(random));
            let id = u32::try_from(random.below(ids)).unwrap_or(0);
            file = file.pair(&format!("tokenizer.ggml.{key}_token_id"), Value::u32(id));
        }
    }
    for key in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        if random.one_in(2) {
            let flag = Value {
                type_number: 7,
                bytes: vec![u8::from(random.one_in(2))],
            };
            file = file.pair(&format!("tokenizer.ggml.{key}"), flag);
        }
    }
    file.bytes()
}

/// Where a header's integers are, and where its entries begin and end.
#[derive(Default)]
struct Layout {
    integers: Vec<(usize, usize)>,
    pairs: Vec<std::ops::Range<usize>>,
    tensors: Vec<std::ops::Range<usize>>,
}

const TENSORS_AT: usize = 8;
const PAIRS_AT: usize = 16;

/// One to three changes of the header.
fn changed(data: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = data.to_vec();
    for _ in 0..few(random) {
        let layout = Layout::of(&file);
        let (entries, count_at) = if random.one_in(2) {
            (&layout.pairs, PAIRS_AT)
        } else {
            (&layout.tensors, TENSORS_AT)
        };
        if entries.is_empty() || random.one_in(2) {
            if layout.integers.is_empty() {
                return synthetic(random);
            }
            let (at, width) = *random.pick(&layout.integers);
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&file[at..at + width]);
            let number = another_number(u64::from_le_bytes(bytes), random);
            file[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            continue;
        }
        let (one, other) = (random.pick(entries).clone(), random.pick(entries).clone());
        let copy = file[other].to_vec();
        let more: i64 = match random.below(3) {
            0 => {
                file.drain(one);
                -1
            }
            1 => {
                file.splice(one.start..one.start, copy);
                1
            }
            _ => {
                file.splice(one, copy);
                0
            }
        };
        let mut count = [0; 8];
        count.copy_from_slice(&file[count_at..count_at + 8]);
        let count = u64::from_le_bytes(count).wrapping_add_signed(more);
        file[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
    }
    file
}

impl Layout {
    /// As far as it can be followed.
    fn of(file: &[u8]) -> Self {
        let mut layout = Self::default();
        layout.follow(file);
        layout
    }

    fn follow(&mut self, file: &[u8]) -> Option<()> {
        let mut at = 4;
        self.integer(file, &mut at, 4)?;
        let tensors = self.integer(file, &mut at, 8)?;
        let pairs = self.integer(file, &mut at, 8)?;
        for _ in 0..pairs {
            let start = at;
            self.text(file, &mut at)?;
            let type_number = self.integer(file, &mut at, 4)?;
            self.value(file, &mut at, type_number)?;
            self.pairs.push(start..at);
        }
        for _ in 0..tensors {
            let start = at;
            self.text(file, &mut at)?;
            for _ in 0..self.integer(file, &mut at, 4)? {
                self.integer(file, &mut at, 8)?;
            }
            self.integer(file, &mut at, 4)?;
            self.integer(file, &mut at, 8)?;
            self.tensors.push(start..at);
        }
        Some(())
    }

    fn value(&mut self, file: &[u8], at: &mut usize, type_number: u64) -> Option<()> {
        match type_number {
            8 => self.text(file, at),
            9 => {
                let elements = self.integer(file, at, 4)?;
                for _ in 0..self.integer(file, at, 8)? {
                    if elements == 9 {
                        return None;
                    }
                    self.value(file, at, elements)?;
                }
                Some(())
            }
            _ => {
                let width = *[1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]
                    .get(usize::try_from(type_number).ok()?)?;
                self.integer(file, at, width).map(|_| ())
            }
        }
    }

    fn text(&mut self, file: &[u8], at: &mut usize) -> Option<()> {
        let length = usize::try_from(self.integer(file, at, 8)?).ok()?;
        *at = at.checked_add(length)?;
        (*at <= file.len()).then_some(())
    }

    fn integer(&mut self, file: &[u8], at: &mut usize, width: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(file.get(*at..*at + width)?);
        self.integers.push((*at, width));
        *at += width;
        Some(u64::from_le_bytes(bytes))
    }
}
