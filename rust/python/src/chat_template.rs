//! Chat templates.

use std::collections::BTreeMap;

use inferlib_text::{Clock, TemplateInput, TextError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::boundary::enter;
use crate::errors::request_error;
use crate::json_value::from_python;
use crate::utf8::utf8;

/// A compiled chat template. Immutable; any thread may use it.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct ChatTemplate {
    inner: inferlib_text::ChatTemplate,
}

#[pymethods]
impl ChatTemplate {
    /// Compile a template; `special_tokens` are variables such as `bos_token`.
    #[new]
    #[pyo3(signature = (source, special_tokens = None))]
    fn new(
        py: Python<'_>,
        source: &Bound<'_, PyString>,
        special_tokens: Option<BTreeMap<String, String>>,
    ) -> PyResult<Self> {
        let source = utf8(source, "chat_template")?;
        let special_tokens = special_tokens.unwrap_or_default();
        let inner = enter(py, || {
            inferlib_text::ChatTemplate::new(source, special_tokens).map_err(TextError::from)
        })?;
        Ok(Self { inner })
    }

    /// The text of a conversation.
    ///
    /// `variables` are further ones for the template (`enable_thinking`); `now` is what its clock shows, as seconds since
    /// 1970 in UTC and the local offset from UTC in seconds, by default the present in UTC.
    #[pyo3(signature = (messages, *, tools = None, add_generation_prompt = true, variables = None, now = None))]
    fn render(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        tools: Option<&Bound<'_, PyAny>>,
        add_generation_prompt: bool,
        variables: Option<&Bound<'_, PyAny>>,
        now: Option<(i64, i32)>,
    ) -> PyResult<String> {
        let extra = match variables
            .map(|variables| from_python(variables, "variables"))
            .transpose()?
        {
            None => serde_json::Map::new(),
            Some(serde_json::Value::Object(extra)) => extra,
            Some(_) => {
                return Err(request_error(
                    py,
                    "variables",
                    "variables must be a mapping".to_owned(),
                ));
            }
        };
        let input = TemplateInput {
            messages: from_python(messages, "messages")?,
            tools: tools.map(|tools| from_python(tools, "tools")).transpose()?,
            add_generation_prompt,
            extra,
            now: now.map(|(unix_seconds, utc_offset_seconds)| Clock {
                unix_seconds,
                utc_offset_seconds,
            }),
        };
        enter(py, || self.inner.render(&input).map_err(TextError::from))
    }
}
