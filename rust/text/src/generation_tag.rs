//! `{% generation %}`, a tag of Hugging Face that marks the assistant's words for training. Rendering ignores it.

/// `source` with `generation` turned into `if true`, which keeps all white space control; borrowed if it has none.
pub(crate) fn neutralize(source: &str) -> std::borrow::Cow<'_, str> {
    if !source.contains("generation") {
        return source.into();
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut is_raw = false;
    while let Some(open) = rest.find('{') {
        let (text, tag) = rest.split_at(open);
        out.push_str(text);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') if !is_raw => tag.find("#}").map(|end| end + 2),
            Some(b'{') if !is_raw => closing(tag, "}}"),
            Some(b'%') => closing(tag, "%}"),
            _ => Some(1),
        };
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        rest = after;
        let name = tag
            .strip_prefix("{%")
            .and_then(|inner| inner.strip_suffix("%}"))
            .unwrap_or_default();
        let name = name
            .trim_start_matches(['-', '+'])
            .trim_end_matches(['-', '+'])
            .trim();
        match name {
            "raw" => is_raw = true,
            "endraw" => is_raw = false,
            "generation" if !is_raw => {
                out.push_str(&tag.replacen("generation", "if true", 1));
                continue;
            }
            "endgeneration" if !is_raw => {
                out.push_str(&tag.replacen("endgeneration", "endif", 1));
                continue;
            }
            _ => {}
        }
        out.push_str(tag);
    }
    out.push_str(rest);
    out.into()
}

/// Where `delimiter` ends in a tag, outside of string literals.
fn closing(tag: &str, delimiter: &str) -> Option<usize> {
    let mut quote = None;
    let mut bytes = tag.bytes().enumerate().skip(2);
    while let Some((place, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), _) if open == byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) if tag.as_bytes()[place..].starts_with(delimiter.as_bytes()) => {
                return Some(place + delimiter.len());
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::neutralize;

    #[test]
    fn only_the_tag_is_replaced() {
        let source = "{%- generation -%}{{ 'a %} {% generation %}' }}{# {% generation %} #}{% endgeneration %} generation";
        let expected = "{%- if true -%}{{ 'a %} {% generation %}' }}{# {% generation %} #}{% endif %} generation";
        assert_eq!(neutralize(source), expected);
    }

    #[test]
    fn other_sources_are_as_they_were() {
        for source in [
            "{% if add_generation_prompt %}x{% endif %}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ {'a': 1}['generation'] }} {",
            "{% generation",
            "{# generation",
            "ü{{ 'ü' }}{% set x = 'é' %} generation {",
        ] {
            assert_eq!(neutralize(source), source);
        }
    }

    #[test]
    fn a_quote_behind_a_backslash_does_not_end_a_string() {
        let source = r#"{{ 'it\'s %} {% generation %}' ~ "\\" }}{% generation %}"#;
        let expected = r#"{{ 'it\'s %} {% generation %}' ~ "\\" }}{% if true %}"#;
        assert_eq!(neutralize(source), expected);
    }
}
