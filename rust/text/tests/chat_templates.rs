//! Chat templates: what Hugging Face's environment offers, and the limits. Parity with Jinja2 is tested in Python.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

use std::collections::BTreeMap;

use inferlib_text::{
    ChatTemplate, Clock, MAX_SOURCE_BYTES, TemplateError, TemplateInput, TemplateProblem,
};
use serde_json::json;

fn input() -> TemplateInput {
    TemplateInput {
        messages: json!([{"role": "user", "content": "Hi <b> é"}, {"role": "assistant", "content": "Yes."}]),
        add_generation_prompt: true,
        now: Some(Clock {
            unix_seconds: 1_796_083_200,
            utc_offset_seconds: 0,
        }),
        ..TemplateInput::default()
    }
}

fn render(source: &str) -> Result<String, TemplateError> {
    let special = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    ChatTemplate::new(source, special)?.render(&input())
}

#[test]
fn chatml_renders() {
    let source = "{{ bos_token }}{% for message in messages %}\n    {{- '<|im_start|>' + message['role'] + '\n' + \
        message.content + '<|im_end|>\n' -}}\n{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let expected = "<s><|im_start|>user\nHi <b> é<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(source).unwrap(), expected);
}

#[test]
fn helpers_are_there() {
    assert_eq!(
        render("{{ strftime_now('%d %b %Y') }}").unwrap(),
        "01 Dec 2026"
    );
    assert_eq!(
        render("{{ messages[0] | tojson }}").unwrap(),
        r#"{"role": "user", "content": "Hi <b> é"}"#
    );
    assert_eq!(
        render("{{ {'b': 1, 'a': [true, none, 1.5e-7]} | tojson(indent=2, sort_keys=true) }}")
            .unwrap(),
        "{\n  \"a\": [\n    true,\n    null,\n    1.5e-07\n  ],\n  \"b\": 1\n}"
    );
    assert_eq!(
        render("{{ [1, 'é'] | tojson(separators=(',', ':'), ensure_ascii=true) }}").unwrap(),
        "[1,\"\\u00e9\"]"
    );
    assert_eq!(render("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}").unwrap(), "013");
    assert_eq!(
        render("{%- generation %}x{%- endgeneration %} y").unwrap(),
        "x y"
    );
    assert_eq!(
        render("{{ messages[0].content.split(' ')[1:] | join('+') }}{{ ' x '.strip() }}").unwrap(),
        "<b>+éx"
    );
    assert_eq!(
        render("{{ nonesuch }}{{ tools is none }}{{ documents is none }}").unwrap(),
        "TrueTrue"
    );
}

#[test]
fn errors_have_kind_and_line() {
    let error = |source: &str| {
        let error = render(source).unwrap_err();
        (error.problem, error.line)
    };
    assert_eq!(error("a\n{% if %}"), (TemplateProblem::Syntax, Some(2)));
    assert_eq!(
        error("a\n\n{{ messages | nonesuch }}"),
        (TemplateProblem::Failed, Some(3))
    );
    assert_eq!(
        error("{{ messages.nonesuch.deeper }}"),
        (TemplateProblem::Failed, Some(1))
    );
    assert_eq!(
        error("{{ strftime_now('%Q') }}"),
        (TemplateProblem::Failed, Some(1))
    );
    assert_eq!(
        error("{{ nonesuch | tojson }}"),
        (TemplateProblem::Failed, Some(1))
    );
    let raised = render("\n{{ raise_exception('no system role') }}").unwrap_err();
    assert_eq!(
        (raised.problem, raised.line),
        (TemplateProblem::Raised, Some(2))
    );
    assert_eq!(raised.to_string(), "chat template, line 2: no system role");
}

#[test]
fn hostile_templates_hit_a_limit() {
    let sources = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 'x'.replace('', 'y' * 100000).replace('', 'y' * 100000) }}",
        "{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 10 }}{% endfor %}",
    ];
    for source in sources {
        let error = render(source).unwrap_err();
        let is_recursion = error.problem == TemplateProblem::Failed && source.contains("macro");
        assert!(
            error.problem == TemplateProblem::Limit || is_recursion,
            "{source}: {error:?}"
        );
    }
    for source in [
        "{{ range(1000000000) | list }}",
        "{{ '{:>999999999}'.format('x') | length }}",
        &"{{ (".repeat(10_000),
        &"{% if true %}".repeat(10_000),
    ] {
        assert!(render(source).is_err());
    }
}

#[test]
fn deep_expressions_and_values_do_not_end_the_process() {
    let fill = |before: &str, unit: &str, after: &str| {
        let count = (MAX_SOURCE_BYTES - before.len() - after.len()) / unit.len();
        format!("{before}{}{after}", unit.repeat(count))
    };
    let expressions = [
        ("1", "+1"),
        ("1", "|e"),
        ("a", ".b"),
        ("a", "()"),
        ("1", " and 1"),
        ("1", " is a"),
        ("1", "**1"),
    ];
    for (first, unit) in expressions {
        let _ = render(&fill(&format!("{{{{ {first}"), unit, " }}"));
    }
    let _ = render(&fill("{{ ", "-", "1 }}"));
    let _ = render(&fill("{{ ", "(", "1 }}"));
    let _ = render(&fill("{%if 1%}", "{%elif 1%}", "{%endif%}"));
    let nested = "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}";
    assert_eq!(render(nested).unwrap_err().problem, TemplateProblem::Limit);
    let too_long = render(&" ".repeat(MAX_SOURCE_BYTES + 1)).unwrap_err();
    assert_eq!(too_long.problem, TemplateProblem::Limit);
}

#[test]
fn long_conversations_have_the_fuel_that_they_need() {
    let message = json!({"role": "user", "content": "word ".repeat(1000)});
    let long = TemplateInput {
        messages: vec![message; 1000].into(),
        ..input()
    };
    let template = ChatTemplate::new(
        "{% for m in messages %}{{ m.content.strip() | trim }}\n{% endfor %}",
        BTreeMap::new(),
    )
    .unwrap();
    assert_eq!(template.render(&long).unwrap().len(), 5_000_000);
    let short = TemplateInput {
        messages: vec![json!({"role": "user", "content": "Hi"}); 10_000].into(),
        ..input()
    };
    assert_eq!(template.render(&short).unwrap().len(), 30_000);
}

#[test]
fn variables_with_arguments_of_their_own_cannot_be_replaced() {
    let template = ChatTemplate::new("{{ enable_thinking }}", BTreeMap::new()).unwrap();
    let mut input = input();
    input
        .extra
        .insert("enable_thinking".to_owned(), json!(false));
    assert_eq!(template.render(&input).unwrap(), "False");
    input.extra.insert("messages".to_owned(), json!([]));
    assert_eq!(
        template.render(&input).unwrap_err().problem,
        TemplateProblem::Argument
    );
}

#[test]
fn values_keep_their_type_on_their_way_into_a_template() {
    let template = ChatTemplate::new("{{ values | tojson }}", BTreeMap::new()).unwrap();
    let mut input = input();
    let values = json!([null, true, false, -3, u64::MAX, 0.5, 1e100, "é", [[]], {"z": {}, "a": 1}]);
    input.extra.insert("values".to_owned(), values);
    assert_eq!(
        template.render(&input).unwrap(),
        r#"[null, true, false, -3, 18446744073709551615, 0.5, 1e+100, "é", [[]], {"z": {}, "a": 1}]"#
    );
}

#[test]
fn tojson_escapes_what_json_and_ascii_cannot_hold() {
    let template = |options: &str| {
        let source = format!("{{{{ text | tojson{options} }}}}");
        let mut input = input();
        let text = "\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}é🙂<&'";
        input.extra.insert("text".to_owned(), text.into());
        ChatTemplate::new(&source, BTreeMap::new())
            .unwrap()
            .render(&input)
            .unwrap()
    };
    assert_eq!(
        template(""),
        "\"\\\"\\\\\\n\\r\\t\\b\\f\\u0001\u{7f}é🙂<&'\""
    );
    assert_eq!(
        template("(ensure_ascii=true)"),
        "\"\\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u007f\\u00e9\\ud83d\\ude42<&'\""
    );
}

#[test]
fn tojson_writes_keys_as_strings() {
    assert_eq!(
        render("{{ {2: 'a', none: 'b', true: 'c', 0.5: 'd'} | tojson }}").unwrap(),
        r#"{"2": "a", "null": "b", "true": "c", "0.5": "d"}"#
    );
    let error = render("{{ {[1]: 2} | tojson }}").unwrap_err();
    assert!(
        error.message.contains("a key of type sequence"),
        "{}",
        error.message
    );
}

#[test]
fn arguments_of_tojson_are_checked_by_name() {
    for (options, text) in [
        ("indent=none", "[1, {}]"),
        ("separators=none", "[1, {}]"),
        ("indent='-'", "[\n-1,\n-{}\n]"),
        ("indent=0", "[\n1,\n{}\n]"),
    ] {
        let source = format!("{{{{ [1, {{}}] | tojson({options}) }}}}");
        assert_eq!(render(&source).unwrap(), text, "{options}");
    }
    for (options, message) in [
        ("indent=65", "indent of tojson"),
        ("indent=-1", "indent of tojson"),
        ("indent=[]", "indent of tojson"),
        ("separators=(',',)", "separators of tojson"),
        ("separators=(',', 1)", "separators of tojson"),
        ("nonesuch=1", "nonesuch"),
    ] {
        let error = render(&format!("{{{{ [1] | tojson({options}) }}}}")).unwrap_err();
        assert_eq!(error.problem, TemplateProblem::Failed);
        assert!(error.message.contains(message), "{options}: {error}");
    }
}

#[test]
fn tojson_pays_for_what_it_writes_and_refuses_what_is_nested_too_deeply() {
    let template = ChatTemplate::new("{{ values | tojson }}", BTreeMap::new()).unwrap();
    let rendered = |values: serde_json::Value| {
        let mut input = input();
        input.extra.insert("values".to_owned(), values);
        template.render(&input)
    };
    let long = rendered(vec![json!("x".repeat(1000)); 1000].into()).unwrap();
    assert_eq!(long.len(), 1000 * 1004);
    let nested = |depth: usize| (0..depth).fold(json!([]), |inner, _| json!([inner]));
    assert_eq!(rendered(nested(200)).unwrap().len(), 402);
    let error = rendered(nested(201)).unwrap_err();
    assert!(error.message.contains("nested too deeply"), "{error}");
    // Strings that a template has once and writes often are paid for as well.
    let often = "{% set text = 'x' * 1000 %}{% for i in range(99999) %}{% set all = ([text] * 1000) | tojson %}{% endfor %}";
    assert_eq!(render(often).unwrap_err().problem, TemplateProblem::Limit);
}

#[test]
fn output_has_a_limit_of_its_own() {
    let template = |source: &str| ChatTemplate::new(source, BTreeMap::new()).unwrap();
    let input = TemplateInput {
        messages: json!([{"role": "user", "content": "x".repeat(9 << 20)}]),
        ..input()
    };
    let once = template("{{ messages[0].content }}").render(&input);
    assert_eq!(once.unwrap().len(), 9 << 20);
    let twice = template("{{ messages[0].content }}\n{{ messages[0].content }}").render(&input);
    let error = twice.unwrap_err();
    assert_eq!(error.problem, TemplateProblem::Limit);
    assert!(error.message.contains("more than 16 MiB"), "{error}");
}

#[test]
fn a_problem_of_no_line_is_told_without_one() {
    let error = TemplateError {
        problem: TemplateProblem::Argument,
        line: None,
        message: "x".to_owned(),
    };
    assert_eq!(error.to_string(), "chat template: x");
}
