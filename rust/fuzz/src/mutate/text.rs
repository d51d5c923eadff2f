//! Sources in a language: parts are repeated, nested, exchanged for words of the language.

use super::few;
use crate::Random;

/// Of chat templates.
#[rustfmt::skip]
pub const TEMPLATE_WORDS: &[&str] = &[
    "{% for m in messages %}", "{% endfor %}", "{% if ", " %}", "{% elif ", "{% else %}", "{% endif %}", "{{ ", " }}",
    "{%- ", " -%}", "{{- ", " -}}", "{# ", " #}", "{% set x = ", "{% set ns = namespace(a=1) %}", "{% set ns.a = ",
    "{% macro f(a, b=2) %}", "{% endmacro %}", "{{ f(1) }}", "{% generation %}", "{% endgeneration %}", "{% raw %}",
    "{% endraw %}", "{% break %}", "{% continue %}", "{% for k, v in m.items() recursive %}", "{{ loop(", "loop.index0",
    "loop.first", "loop.last", "loop.previtem", "range(", "range(1000000000)", "messages[0]", "messages[1:]",
    "messages[::-1]", "m.role", "m['content']", "message.tool_calls", "tools", "bos_token", "eos_token",
    "add_generation_prompt", "enable_thinking", "raise_exception('x')", "strftime_now('%Y-%m-%d')", "strftime_now('%",
    " | tojson", " | tojson(indent=4)", " | trim", " | length", " | string", " | upper", " | join(', ')", " | default('')",
    " | replace('a', 'b')", " | selectattr('role', 'equalto', 'user') | list", " | map(attribute='content')", " | batch(2)",
    " | items", " | dictsort", " | sort", " | unique", " | round(", " | int", " | float", " | indent(", " | format(",
    ".split('x')[-1]", ".strip()", ".startswith('a')", ".replace('a', 'aa')", ".format(1)", ".count('')", " is defined",
    " is none", " is string", " is mapping", " is iterable", " not in ", " in ", " and ", " or ", "not ", " == ", " ~ ",
    " * 9", " ** 99", " // 0", " % 0", " / 0", "9223372036854775807", "-1", "1e308", "'a' * 100000", "[0] * 1000000",
    "[", "]", "{", "}", "(", ")", "'", "\"", "\\", "none", "true", "false", "\u{301}", "漢",
];

/// Of regular expressions.
#[rustfmt::skip]
pub const REGEX_WORDS: &[&str] = &[
    "a*", "(", ")", "(?:", "(?i)", "(?s-i:", "(?P<n>", "|", "[", "]", "[^", "-", "^", "$", "{2,5}", "{0}", "{999}", "{1000,}",
    "{,3}", "*?", "+?", "??", "\\d", "\\w", "\\S", "\\b", "\\B", "\\p{L}", "\\pN", "\\P{Greek}", "\\x41", "\\x{10FFFF}",
    "\\u0041", "\\n", "\\1", "\\z", "\\A", "[[:alpha:]]", "[a-z&&[^b]]", "[a-z--b]", "(?=a)", "(?!a)", "(?<=a)", ".*", ".",
    "\\.", "(a|b)*", "((a*)*)*", "(a?){30}a{30}", "[\\s\\S]", "漢", "\u{301}", "(?x) # ", "(?u)", "(?R)",
];

/// Of Lark, and of what the parser adds to it.
#[rustfmt::skip]
pub const LARK_WORDS: &[&str] = &[
    "start: ", "start: a\n", "a: \"x\"\n", "a: /[a-z]+/\n", "a: a \"x\" | \n", "A: \"x\"\n", "A: /x/i | B\n", "B: A\n", "?a: ",
    "!a: ", "_a: ", "a: (b | c)* d+ e?\n", " | ", " -> x", "~3", "~2..5", "~0..1000000", "\"a\"..\"z\"", "\"x\"i", "/x/",
    "/(a|b)*/", "%import common.INT\n", "%ignore /[ ]+/\n", "%json {\"type\": \"object\"}\n", "%lark {\n", "%regex {\n", "}\n",
    "%llguidance {}\n", "%declare A\n", "%override ", "%extend ", "a[max_tokens=3]: ", "a[capture]: ", "a[stop=\"x\"]: /.*/\n",
    "a[lazy]: /.*x/\n", "a[temperature=0.5]: ", "a[suffix=\"x\"]: ", "<|tool|>", "<[1-5]>", "<[*]>", "@sub", "&", "~", "(", ")",
    "[", "]", "{", "}", "*", "+", "?", "\n", "// c\n", "# c\n", "a.1: ", "A.-1: ", "a{x}: ", "a::[", "\\\"", "漢",
];

/// A chat template.
#[must_use]
pub fn template(data: &[u8], random: &mut Random) -> Vec<u8> {
    splice(data, random, TEMPLATE_WORDS)
}

/// A regular expression.
#[must_use]
pub fn regex(data: &[u8], random: &mut Random) -> Vec<u8> {
    splice(data, random, REGEX_WORDS)
}

/// A grammar of Lark.
#[must_use]
pub fn lark(data: &[u8], random: &mut Random) -> Vec<u8> {
    splice(data, random, LARK_WORDS)
}

pub(super) fn splice(data: &[u8], random: &mut Random, words: &[&str]) -> Vec<u8> {
    let mut text = data.to_vec();
    for _ in 0..few(random) {
        let part = random.part(text.len());
        let word = random.pick(words).as_bytes();
        match random.below(6) {
            0 => drop(text.splice(part, word.iter().copied())),
            1 => drop(text.splice(part.start..part.start, word.iter().copied())),
            2 => drop(text.splice(part.start..part.start, word.repeat(1 + random.below(40)))),
            3 => {
                let copy = text[part].repeat(1 + random.below(40));
                let at = random.below(text.len() + 1);
                text.splice(at..at, copy);
            }
            4 => {
                let (open, close) = *random.pick(&[
                    ("(", ")"),
                    ("[", "]"),
                    ("{", "}"),
                    ("(?:", ")*"),
                    ("{{ ", " }}"),
                ]);
                let depth = 1 + random.below(60);
                text.splice(part.end..part.end, close.repeat(depth).into_bytes());
                text.splice(part.start..part.start, open.repeat(depth).into_bytes());
            }
            _ => drop(text.drain(part)),
        }
    }
    text
}
