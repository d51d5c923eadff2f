//! Cutting text into words before byte-level BPE, by the rules that `tokenizer.ggml.pre` names.
//!
//! The rules are the regular expressions of the models' own `tokenizer.json` files, run on an engine of automata: time is
//! linear whatever the text. The one construct that automata lack, `\s+(?!\S)` (white space that leaves its last character
//! to the word that follows), always stands last and is done by hand in [`Stage::next_word`].

use regex_automata::meta::Regex;
use regex_automata::{Input, PatternID};

use crate::error::TextError;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
);
const KIMI_K2: &str = concat!(
    r"\p{Han}+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
);
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-ƺ\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
    r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
    r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}",
    r"\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
    r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
    r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}",
    r"\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}",
    r"\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}",
    r"\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}",
    r"\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}",
    r"\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}",
    r"\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}",
    r"\u{1E900}-\u{1E943}",
    r"]+"
);
const SEED_CODER: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
);
const EXAONE_MOE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
);
const POSSIBLE_SPACE_THEN_ANY: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// One regular expression over the pieces of the stage before; matches and what lies between them become pieces.
enum Rule {
    /// White space belongs to what lies between, or to the expression itself.
    Matches(&'static str),
    /// `expression|\s+(?!\S)|\s+`.
    Words(&'static str),
}
use Rule::{Matches, Words};

/// What one name of `tokenizer.ggml.pre` stands for.
struct Family {
    names: &'static [&'static str],
    rules: &'static [Rule],
    /// A word that is a token is that token, whatever merging would give.
    ignore_merges: bool,
    /// Whether a sequence begins with BOS if the file does not say.
    add_bos: bool,
}

const fn family(names: &'static [&'static str], rules: &'static [Rule]) -> Family {
    Family {
        names,
        rules,
        ignore_merges: false,
        add_bos: false,
    }
}

/// The names are llama.cpp's, which writes them into the files; the expressions are the models' own.
#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    family(&["default"], &[
        Matches(r"[\p{P}$+<=>^~|]+"), Words(GPT2), Matches(r"\p{N}+"), Matches(r"[0-9][0-9][0-9]"),
    ]),
    family(&[
        "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert",
        "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
    ], &[Words(GPT2)]),
    family(&[
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
    ], &[Matches(r"\p{N}"), Words(GPT2)]),
    Family { ignore_merges: true, add_bos: true, ..family(&[
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    ], &[Words(LLAMA3)]) },
    Family { ignore_merges: true, ..family(&["minicpm5"], &[Matches(r"\p{N}{1,3}"), Words(LLAMA3)]) },
    family(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[Words(LLAMA3)]),
    family(&[
        "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2",
    ], &[Words(QWEN2)]),
    family(&["laguna"], &[Matches(r"[^\n]+|\n+"), Words(QWEN2)]),
    family(&["qwen35"], &[Words(QWEN35)]),
    family(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Words(GPT4O)]),
    Family { ignore_merges: true, add_bos: true, ..family(&["tekken"], &[Words(TEKKEN)]) },
    family(&["kimi-k2"], &[Words(KIMI_K2)]),
    family(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[
        Matches(r"\p{N}{1,3}"), Matches(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{30FF}]+"), Words(DEEPSEEK3),
    ]),
    family(&["deepseek-llm"], &[
        Matches(r"[\r\n]"), Matches(DEEPSEEK_LLM_LETTERS), Matches("\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"), Matches(r"\s+$"),
        Matches(r"[\u{800}-\u{9FA5}\u{AC00}-\u{D7FF}]+"), Matches(r"\p{N}+"),
    ]),
    family(&["deepseek-coder"], &[
        Matches(r"[\r\n]"), Matches(r"\s?\p{L}+"), Matches(r"\s?\p{P}+"), Matches(r"[\u{800}-\u{9FA5}\u{AC00}-\u{D7FF}]+"), Matches(r"\p{N}"),
    ]),
    family(&["falcon"], &[Matches(r"[\p{P}$+<=>^~|`]+"), Words(GPT2), Matches(r"[0-9][0-9][0-9]")]),
    family(&["seed-coder"], &[Words(SEED_CODER)]),
    family(&["bailingmoe", "bailingmoe2", "llada-moe"], &[Words(BAILING)]),
    family(&["exaone-moe"], &[Words(EXAONE_MOE)]),
    family(&["bloom", "gpt3-finnish", "poro-chat"], &[Matches(POSSIBLE_SPACE_THEN_ANY)]),
    family(&["viking"], &[Matches(POSSIBLE_SPACE_THEN_ANY), Matches(r"\p{N}")]),
];

/// The names of `tokenizer.ggml.pre` that are known.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES
        .iter()
        .flat_map(|family| family.names.iter().copied())
}

fn family_of(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.names.contains(&name))
}

/// A compiled pre-tokenizer.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    stages: Vec<Stage>,
    pub(crate) ignore_merges: bool,
}

#[derive(Debug)]
struct Stage {
    regex: Regex,
}

/// Which of a stage's two expressions is the `\s+` of [`Rule::Words`].
const WHITE_SPACE: usize = 1;

impl PreTokenizer {
    /// The pre-tokenizer with this name.
    pub(crate) fn named(name: &str) -> Result<Self, TextError> {
        let Some(family) = family_of(name) else {
            return Err(TextError::UnsupportedTokenizer {
                field: "tokenizer.ggml.pre",
                found: name.to_owned(),
                supported: names().collect::<Vec<_>>().join(", "),
            });
        };
        Ok(Self {
            stages: family.rules.iter().map(Stage::new).collect(),
            ignore_merges: family.ignore_merges,
        })
    }

    /// Whether vocabularies with this pre-tokenizer begin a text with BOS when the file does not say.
    pub(crate) fn adds_bos(name: &str) -> bool {
        family_of(name).is_some_and(|family| family.add_bos)
    }

    /// Call `word` with each piece of `text`, in order; together they are `text`.
    pub(crate) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split_by(&self.stages, text, word);
    }
}

fn split_by<'t>(stages: &[Stage], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((stage, later)) = stages.split_first() else {
        return word(text);
    };
    let mut rest = text;
    while let Some((start, end)) = stage.next_word(rest) {
        if start > 0 {
            split_by(later, &rest[..start], word);
        }
        split_by(later, &rest[start..end], word);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        split_by(later, rest, word);
    }
}

impl Stage {
    fn new(rule: &Rule) -> Self {
        let regex = match rule {
            Rule::Matches(expression) => Regex::new(expression),
            Rule::Words(expression) => Regex::new_many(&[expression, r"\s+"]),
        };
        Self {
            regex: regex.expect("the expressions are constants, and a test compiles all of them"),
        }
    }

    /// Start and end of the first piece that the stage isolates in `text`.
    fn next_word(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.regex.find(Input::new(text))?;
        let (start, mut end) = (found.start(), found.end());
        if found.pattern() == PatternID::must(WHITE_SPACE) && end < text.len() {
            // `\s+(?!\S)`: something follows, so the last character goes with it, unless it is the only one.
            let last = text[start..end]
                .chars()
                .next_back()
                .map_or(0, char::len_utf8);
            if end - start > last {
                end -= last;
            }
        }
        (end > start).then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
        SplitDelimiterBehavior,
    };

    fn split(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::named(name)
            .unwrap()
            .split(text, &mut |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn every_name_compiles_and_keeps_all_text() {
        let text = "  Hello, WORLD's 12345 naïve\r\n\n\tx  \u{3000}中文 テスト 한국어 नमस्ते 🙂!!\n ";
        for name in names() {
            assert_eq!(split(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word_that_follows() {
        assert_eq!(split("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(split("gpt-2", "a \t\nb"), ["a", " \t", "\n", "b"]);
        assert_eq!(split("gpt-2", "a\n\n"), ["a", "\n\n"]);
        assert_eq!(
            split("gpt-2", "\u{3000}\u{3000}b"),
            ["\u{3000}", "\u{3000}", "b"]
        );
    }

    #[test]
    fn families_differ_where_the_models_do() {
        assert_eq!(split("gpt-2", "x 1234"), ["x", " 1234"]);
        assert_eq!(split("smollm", "x 1234"), ["x", " ", "1", "2", "3", "4"]);
        assert_eq!(
            split("llama-bpe", "x1234'S\n\n y"),
            ["x", "123", "4", "'S", "\n\n", " y"]
        );
        assert_eq!(split("qwen2", "x1234"), ["x", "1", "2", "3", "4"]);
        assert_eq!(
            split("gpt-4o", "HelloWorld don't"),
            ["Hello", "World", " don't"]
        );
        assert_eq!(split("tekken", "don't"), ["don", "'t"]);
        assert_eq!(
            split("deepseek-v3", "ab!cd 中文x 12345"),
            ["ab", "!cd", " ", "中文", "x", " ", "123", "45"]
        );
        assert_eq!(
            split("default", "a=b 1234"),
            ["a", "=", "b", " ", "123", "4"]
        );
    }

    #[test]
    fn an_unknown_name_is_named() {
        let Err(TextError::UnsupportedTokenizer {
            field,
            found,
            supported,
        }) = PreTokenizer::named("nonesuch")
        else {
            panic!("accepted")
        };
        assert_eq!((field, found.as_str()), ("tokenizer.ggml.pre", "nonesuch"));
        assert!(supported.contains("qwen2"));
    }

    /// The same rules on the backtracking engine of the `tokenizers` crate, look-ahead included.
    fn split_by_backtracking(splits: &[Split], text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        for split in splits {
            split.pre_tokenize(&mut pieces).unwrap();
        }
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces
            .into_iter()
            .map(|(piece, _, _)| piece.to_owned())
            .filter(|piece| !piece.is_empty())
            .collect()
    }

    fn backtracking(family: &Family) -> Vec<Split> {
        let expression = |rule: &Rule| match rule {
            Matches(expression) => (*expression).to_owned(),
            Words(expression) => format!(r"{expression}|\s+(?!\S)|\s+"),
        };
        let isolate = |rule| {
            let pattern = SplitPattern::Regex(expression(rule));
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap()
        };
        family.rules.iter().map(isolate).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn automata_split_as_backtracking_does(
            texts in proptest::collection::vec(
                prop_oneof![
                    "[ \t\r\n\u{a0}\u{3000}'/.,!$+<~|(]{0,4}",
                    "[a-cA-C0-9sStTdDmMlLvVeErR']{0,5}",
                    "[éßǅʰªΩЖ中テ한नम\u{301}\u{94d}²Ⅷ٣]{0,4}",
                    "\\PC{0,3}",
                ],
                0..8,
            ),
        ) {
            thread_local! {
                static BOTH: Vec<(&'static str, PreTokenizer, Vec<Split>)> = FAMILIES
                    .iter()
                    .map(|family| (family.names[0], PreTokenizer::named(family.names[0]).unwrap(), backtracking(family)))
                    .collect();
            }
            let text = texts.concat();
            BOTH.with(|both| {
                for (name, automata, splits) in both {
                    let mut words = Vec::new();
                    automata.split(&text, &mut |word| words.push(word.to_owned()));
                    prop_assert_eq!(words, split_by_backtracking(splits, &text), "{} {:?}", name, text);
                }
                Ok(())
            })?;
        }
    }
}
