//! Small valid inputs: the seeds, and what targets need beside their input.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use inferlib_core::kv_cache::{GroupConfig, PrefixHash};
use inferlib_core::scheduler::BACKGROUND_TOKENS;
use inferlib_core::{NewRequest, Policy, Scheduler, SchedulerConfig};
use inferlib_program::{RowStatus, SamplingParams, StepOutput};
use serde_json::{Map, Value, json};

use crate::reader_samples;
use crate::writer::{Gguf, Value as GgufValue};

/// A `tokenizer.json` of three tokens and one that is added.
pub const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":3,"content":"<s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}"#;

/// One file of a folder of seeds: target, name, contents.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// A safetensors file of five tensors.
#[must_use]
pub fn safetensors() -> Vec<u8> {
    let (header, data) = reader_samples::safetensors_parts();
    reader_samples::safetensors(&header, &data)
}

/// All seeds but those that were findings.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = vec![
        ("gguf", "all-kinds", reader_samples::gguf().bytes()),
        ("gguf", "empty", Gguf::new().bytes()),
        ("safetensors", "all-kinds", safetensors()),
        (
            "safetensors",
            "empty",
            reader_samples::safetensors("{}", &[]),
        ),
        ("gguf_vocabulary", "byte-pairs", byte_pairs()),
        ("gguf_vocabulary", "sentence-piece", sentence_piece()),
        ("decision_log", "three-requests", decision_log(Policy::Fcfs)),
        ("decision_log", "fair", decision_log(FAIR)),
    ];
    let texts: [(&str, &str, String); 21] = [
        ("shard_index", "one-shard", index().to_string()),
        ("tokenizer_json", "byte-pairs", TOKENIZER.to_owned()),
        ("tokenizer_json", "word-piece", word_piece().to_string()),
        ("tokenizer_json", "sentence-piece", byte_fallback().to_string()),
        ("tokenizer_json", "unigram", unigram().to_string()),
        ("tokenizer_config", "names", json!({"bos_token": "<s>", "eos_token": {"content": "ab"}, "chat_template": "x"}).to_string()),
        ("tokenizer_config", "templates", json!({"chat_template": [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]}).to_string()),
        ("chat_template", "chatml", CHATML.to_owned()),
        ("chat_template", "tools", TOOLS.to_owned()),
        ("chat_template", "macros", MACROS.to_owned()),
        ("json_schema", "object", OBJECT.to_owned()),
        ("json_schema", "recursion", RECURSION.to_owned()),
        ("json_schema", "strings", STRINGS.to_owned()),
        ("regex", "classes", r"(a|b{1,3})+[c-e]?\d\.\x41".to_owned()),
        ("regex", "words", r"(?i)[\p{L}--[k-z]]+ (?:\w+|[^\s]{2,9}) *".to_owned()),
        ("regex", "date", r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9](T.*)?".to_owned()),
        ("lark", "rules", "start: a+ \"x\"\na: /[a-z]/ | \"b\" start?\n".to_owned()),
        ("lark", "sums", "start: sum\n?sum: item | sum \"+\" item -> add\nitem: NUMBER | \"(\" sum \")\"\nNUMBER: /[0-9]+/\n%ignore / +/\n".to_owned()),
        ("lark", "lists", "start: \"[\" [x (\",\" x)*] \"]\"\nx[max_tokens=5]: WORD~2..4\nWORD: \"a\"..\"f\" | \"z\"i\n".to_owned()),
        ("lark", "json", "start: \"<\" j \">\"\nj: %json {\"type\": \"object\"}\n".to_owned()),
        ("lark", "imports", "%import common.INT\nstart: INT | \"-\" INT\n".to_owned()),
    ];
    seeds.extend(texts.map(|(target, name, text)| (target, name, text.into_bytes())));
    seeds
}

const FAIR: Policy = Policy::FairShare {
    input_weight: 1,
    output_weight: 2,
};
const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') | trim + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}";
const TOOLS: &str = "{{- bos_token }}{%- if tools %}{{- tools | tojson(indent=2) }}{%- endif %}{%- for m in messages %}{%- if m.tool_calls is defined and m.tool_calls %}{%- for c in m['tool_calls'] %}{{ c.function.name ~ ':' ~ c.function.arguments | tojson }}{%- endfor %}{%- elif m.role == 'tool' %}{{ m.content.split('b')[-1].strip('\"} ') }}{%- elif loop.first and m.role not in ['system', 'user'] %}{{ raise_exception('no') }}{%- else %}{% generation %}{{ m.content | upper }}{% endgeneration %}{%- endif %}{%- endfor %}{{ strftime_now('%d %b %Y') }}{{ eos_token }}";
const MACROS: &str = "{% macro f(x, n=1) %}{% if n > 0 %}[{{ f(x, n - 1) }}]{% else %}{{ x }}{% endif %}{% endmacro %}{% set ns = namespace(k=0) %}{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{% set ns.k = ns.k + i %}{% endfor %}{{ f(ns.k, 2) }}{{ messages[::-1] | map(attribute='role') | join(',') }}{{ {'a': [1, none]} | items | list }}";
const OBJECT: &str = r#"{"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":99},"b":{"enum":["x",null]},"c":{"type":"array","items":{"type":"number"},"minItems":1,"maxItems":3}},"required":["a"],"additionalProperties":false}"#;
const RECURSION: &str = r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"anyOf":[{"type":"null"},{"type":"object","properties":{"left":{"$ref":"#/$defs/tree"},"size":{"const":1}},"required":["size"]}]}}}"##;
const STRINGS: &str = r#"{"type":"array","prefixItems":[{"type":"string","pattern":"^[a-c]{1,3}$"},{"type":"string","format":"date"}],"items":{"type":"string","minLength":1,"maxLength":5}}"#;

fn index() -> Value {
    json!({
        "metadata": {"total_size": 51},
        "weight_map": {"w": "a.safetensors", "half": "a.safetensors", "none": "a.safetensors"},
    })
}

fn texts(texts: &[&str]) -> GgufValue {
    GgufValue::strings(texts)
}

fn types(types: &[i32]) -> GgufValue {
    let bytes: Vec<u8> = types.iter().flat_map(|kind| kind.to_le_bytes()).collect();
    GgufValue::array(5, types.len(), &bytes)
}

fn byte_pairs() -> Vec<u8> {
    let tokens = [
        "a",
        "b",
        "Ġ",
        "l",
        "o",
        "ab",
        "Ġa",
        "lo",
        "<|im_end|>",
        "<s>",
    ];
    Gguf::new()
        .pair("tokenizer.ggml.model", GgufValue::string("gpt2"))
        .pair("tokenizer.ggml.pre", GgufValue::string("llama-bpe"))
        .pair("tokenizer.ggml.tokens", texts(&tokens))
        .pair(
            "tokenizer.ggml.token_type",
            types(&[1, 1, 1, 1, 1, 1, 1, 1, 3, 3]),
        )
        .pair("tokenizer.ggml.merges", texts(&["a b", "Ġ a", "l o"]))
        .pair("tokenizer.ggml.bos_token_id", GgufValue::u32(9))
        .pair("tokenizer.ggml.eos_token_id", GgufValue::u32(8))
        .bytes()
}

fn sentence_piece() -> Vec<u8> {
    let tokens = [
        "<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "▁a", "aa", "b", "<tool>",
    ];
    let scores: Vec<u8> = (0..10_u8)
        .flat_map(|id| (-f32::from(id)).to_le_bytes())
        .collect();
    Gguf::new()
        .pair("tokenizer.ggml.model", GgufValue::string("llama"))
        .pair("tokenizer.ggml.tokens", texts(&tokens))
        .pair("tokenizer.ggml.scores", GgufValue::array(6, 10, &scores))
        .pair(
            "tokenizer.ggml.token_type",
            types(&[2, 3, 3, 6, 1, 1, 1, 1, 1, 4]),
        )
        .pair("tokenizer.ggml.bos_token_id", GgufValue::u32(1))
        .pair("tokenizer.ggml.eos_token_id", GgufValue::u32(2))
        .pair("tokenizer.ggml.unknown_token_id", GgufValue::u32(0))
        .bytes()
}

fn added(tokens: &[(usize, &str)]) -> Value {
    let token = |&(id, content): &(usize, &str)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    tokens.iter().map(token).collect()
}

/// What `vocab.txt` of an encoder becomes.
fn word_piece() -> Value {
    let special = |id: &str, number: usize| json!({"id": id, "ids": [number], "tokens": [id]});
    json!({
        "version": "1.0",
        "added_tokens": added(&[(0, "[PAD]"), (1, "[UNK]"), (2, "[CLS]"), (3, "[SEP]")]),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "hello": 4, "w": 5, "##rld": 6, "a": 7, "##b": 8},
        },
    })
}

/// Llama 2's kind: pairs, and bytes where no token fits.
fn byte_fallback() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": added(&[(0, "<unk>"), (1, "<s>")]),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "▁": 3, "a": 4, "▁a": 5, "b": 6}, "merges": ["▁ a"],
        },
    })
}

fn unigram() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": null,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {
            "type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["▁a", -2.5], ["b", -3.0], ["ab", -3.25]],
        },
    })
}

/// A `tokenizer.json` of all bytes, some pairs of them, and an end: the vocabulary that grammars are compiled for.
#[must_use]
pub fn byte_tokenizer() -> String {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    let letters: Vec<char> = (0..=255)
        .map(|byte| {
            if prints(byte) {
                char::from(byte)
            } else {
                others.next().and_then(char::from_u32).unwrap_or_default()
            }
        })
        .collect();
    let mut tokens: Vec<String> = letters.iter().map(char::to_string).collect();
    let pairs = [
        ("\"", ":"),
        ("t", "r"),
        ("{", "\""),
        (",", "\""),
        ("1", "0"),
        ("a", "b"),
    ];
    tokens.extend(pairs.map(|(left, right)| format!("{left}{right}")));
    let end = tokens.len();
    let vocab: Map<String, Value> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, Value::from(id)))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added(&[(end, "</s>")]),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs.map(|(left, right)| [left, right])},
    })
    .to_string()
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A small scheduler with more requests than memory, and a held sequence.
fn decision_log(policy: Policy) -> Vec<u8> {
    let config = SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: 8,
            window: None,
        }],
        max_num_seqs: 2,
        max_num_batched_tokens: 16,
        max_model_len: 100,
        vocab_size: 50,
        speculation: None,
        rows_per_pass: 6,
        policy,
        enable_prefix_caching: true,
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        draft_model: None,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    };
    let log = Shared::default();
    let mut scheduler = Scheduler::new(config).expect("a valid configuration");
    scheduler
        .log_decisions(Box::new(log.clone()))
        .expect("memory takes all");
    let held = scheduler.open_sequence(None);
    scheduler
        .restore_sequence(held, vec![3; 20], 20)
        .expect("there is room");
    for priority in [3, 2, 1] {
        let params = SamplingParams {
            max_tokens: 3,
            ..SamplingParams::default()
        };
        let request = NewRequest {
            priority,
            ..NewRequest::new(vec![1; 20], Arc::new(params))
        };
        scheduler.submit(request, 0.0).expect("it fits");
    }
    while let Some(batch) = scheduler.schedule(1.0) {
        let rows = batch.num_sampled();
        let output = StepOutput {
            mirostat_mu: Vec::new(),
            token_ids: vec![7; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
            captures: Vec::new(),
            logits: Vec::new(),
        };
        scheduler.update(&output, 1.0).expect("what was asked for");
    }
    scheduler.end_decision_log();
    log.0.lock().map(|bytes| bytes.clone()).unwrap_or_default()
}
