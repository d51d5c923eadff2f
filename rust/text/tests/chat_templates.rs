//! Chat templates: what Hugging Face's environment offers, and the limits. Parity with Jinja2 is tested in Python.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

use std::collections::BTreeMap;

use inferlib_text::{ChatTemplate, Clock, TemplateError, TemplateInput, TemplateProblem};
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
        &"{{ (".repeat(10_000),
        &"{% if true %}".repeat(10_000),
    ] {
        assert!(render(source).is_err());
    }
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
