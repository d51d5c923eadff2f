//! What `tokenizer_config.json` says: the names of special tokens, and chat templates.

use serde_json::Value;

use crate::error::TextError;

/// The fields of `tokenizer_config.json` that inference needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// `bos_token`.
    pub bos_token: Option<String>,
    /// `eos_token`.
    pub eos_token: Option<String>,
    /// `unk_token`.
    pub unk_token: Option<String>,
    /// `pad_token`.
    pub pad_token: Option<String>,
    /// `chat_template` as (name, source): one string is named `default`; a list has its own names, such as `tool_use`.
    pub chat_templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Read the file's text.
    pub fn from_json(json: &[u8]) -> Result<Self, TextError> {
        let invalid = |problem: String| TextError::InvalidTokenizerConfig { problem };
        let config: Value =
            serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
        if !config.is_object() {
            return Err(invalid("it is not an object".to_owned()));
        }
        let token = |name: &str| match &config[name] {
            Value::Null => Ok(None),
            Value::String(token) => Ok(Some(token.clone())),
            other => match other["content"].as_str() {
                Some(token) => Ok(Some(token.to_owned())),
                None => Err(invalid(format!(
                    "{name} is neither a string nor an added token"
                ))),
            },
        };
        Ok(Self {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            unk_token: token("unk_token")?,
            pad_token: token("pad_token")?,
            chat_templates: chat_templates(&config["chat_template"]).map_err(invalid)?,
        })
    }

    /// The source of the template with this name.
    #[must_use]
    pub fn chat_template(&self, name: &str) -> Option<&str> {
        let named = self.chat_templates.iter().find(|(other, _)| other == name);
        named.map(|(_, source)| source.as_str())
    }
}

fn chat_templates(field: &Value) -> Result<Vec<(String, String)>, String> {
    match field {
        Value::Null => Ok(Vec::new()),
        Value::String(source) => Ok(vec![("default".to_owned(), source.clone())]),
        Value::Array(entries) => entries
            .iter()
            .map(
                |entry| match (entry["name"].as_str(), entry["template"].as_str()) {
                    (Some(name), Some(source)) => Ok((name.to_owned(), source.to_owned())),
                    _ => Err("chat_template has an entry without name and template".to_owned()),
                },
            )
            .collect(),
        _ => Err("chat_template is neither a string nor a list".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_strings_or_objects_and_templates_one_or_many() {
        let json = br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "unk_token": null,
            "chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#;
        let config = TokenizerConfig::from_json(json).unwrap();
        assert_eq!(config.bos_token.as_deref(), Some("<s>"));
        assert_eq!(config.eos_token.as_deref(), Some("</s>"));
        assert_eq!((&config.unk_token, &config.pad_token), (&None, &None));
        assert_eq!(config.chat_template("tool_use"), Some("b"));
        assert_eq!(config.chat_template("rag"), None);
        let one = TokenizerConfig::from_json(br#"{"chat_template": "x"}"#).unwrap();
        assert_eq!(one.chat_template("default"), Some("x"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |json: &str| {
            TokenizerConfig::from_json(json.as_bytes())
                .unwrap_err()
                .to_string()
        };
        assert!(problem(r#"{"eos_token": 3}"#).contains("eos_token"));
        assert!(problem(r#"{"chat_template": [{"name": "x"}]}"#).contains("chat_template"));
        assert!(problem(r#"{"chat_template": 1}"#).contains("chat_template"));
        assert!(problem("[]").contains("not an object"));
        assert!(problem("{").contains("EOF"));
    }
}
