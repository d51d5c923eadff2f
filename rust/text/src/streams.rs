//! The text of all running requests: one decode stream and stop matcher per key, advanced in one call per engine step.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::decode::DecodeStream;
use crate::error::TextError;
use crate::stop::{StopMatcher, StopStrings};
use crate::tokenizer::Tokenizer;

/// How one request's tokens become text.
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    /// Leave special tokens out of the text.
    pub skip_special: bool,
    /// The text goes on after other text, so that a leading space stays.
    pub continues: bool,
    /// Strings that end the text.
    pub stops: Arc<StopStrings>,
    /// Leave the stop string in the text.
    pub include_stop: bool,
    /// The text of this many tokens cannot contain a stop string.
    pub min_tokens: u32,
}

/// What one call of [`TextStreams::advance`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Streams whose text has just ended.
    pub stops: Vec<StopHit>,
    /// Tokens that could not be decoded; the other streams are not affected.
    pub failures: Vec<StreamFailure>,
}

/// A stream whose text has ended with a stop string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopHit {
    /// The stream.
    pub key: u64,
    /// Place in the arrays of the call: the token that completed the stop string.
    pub position: usize,
    /// Which of its stop strings it was.
    pub stop_index: usize,
}

/// A token that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFailure {
    /// The stream.
    pub key: u64,
    /// Place in the arrays of the call.
    pub position: usize,
    /// Why.
    pub error: TextError,
}

/// A pool of text streams, by key.
#[derive(Debug)]
pub struct TextStreams {
    tokenizer: Arc<Tokenizer>,
    streams: HashMap<u64, TextStream>,
    /// The text of one token, before stop strings.
    scratch: String,
}

#[derive(Debug)]
struct TextStream {
    decode: DecodeStream,
    stop: StopMatcher,
    unstoppable_tokens: u32,
    has_failed: bool,
    /// Text that is certain and was not taken yet.
    visible: String,
}

impl TextStreams {
    /// A pool without streams.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            streams: HashMap::new(),
            scratch: String::new(),
        }
    }

    /// Begin a stream.
    pub fn insert(&mut self, key: u64, options: StreamOptions) -> Result<(), TextError> {
        if self.streams.contains_key(&key) {
            return Err(TextError::DuplicateStream { key });
        }
        let tokenizer = Arc::clone(&self.tokenizer);
        let decode = if options.continues {
            DecodeStream::continuing(tokenizer, options.skip_special)
        } else {
            DecodeStream::new(tokenizer, options.skip_special)
        };
        let stream = TextStream {
            decode,
            stop: StopMatcher::new(options.stops, options.include_stop),
            unstoppable_tokens: options.min_tokens,
            has_failed: false,
            visible: String::new(),
        };
        self.streams.insert(key, stream);
        Ok(())
    }

    /// Append token `token_ids[i]` to stream `keys[i]`, for all i in order. A key may come several times; tokens after
    /// a stop string or a failure are ignored.
    pub fn advance(&mut self, keys: &[u64], token_ids: &[u32]) -> Result<Advance, TextError> {
        if keys.len() != token_ids.len() {
            return Err(TextError::LengthMismatch {
                keys: keys.len(),
                token_ids: token_ids.len(),
            });
        }
        let mut advance = Advance::default();
        for (position, (&key, &id)) in keys.iter().zip(token_ids).enumerate() {
            let step = match self.streams.get_mut(&key) {
                Some(stream) => stream.push(id, &mut self.scratch),
                None => Err(TextError::UnknownStream { key }),
            };
            match step {
                Ok(None) => {}
                Ok(Some(stop_index)) => advance.stops.push(StopHit {
                    key,
                    position,
                    stop_index,
                }),
                Err(error) => advance.failures.push(StreamFailure {
                    key,
                    position,
                    error,
                }),
            }
        }
        Ok(advance)
    }

    /// The text that has become certain since the last call.
    pub fn take_text(&mut self, key: u64) -> Result<String, TextError> {
        Ok(std::mem::take(&mut self.get(key)?.visible))
    }

    /// End a stream's text, unless a stop string has: text that was held back becomes visible.
    pub fn finish(&mut self, key: u64) -> Result<(), TextError> {
        let stream = self.get(key)?;
        let rest = stream.decode.finish();
        stream.stop.push(&rest, &mut stream.visible);
        stream.stop.finish(&mut stream.visible);
        Ok(())
    }

    /// Forget a stream; whether there was one.
    pub fn remove(&mut self, key: u64) -> bool {
        self.streams.remove(&key).is_some()
    }

    /// Number of streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    fn get(&mut self, key: u64) -> Result<&mut TextStream, TextError> {
        self.streams
            .get_mut(&key)
            .ok_or(TextError::UnknownStream { key })
    }
}

impl TextStream {
    fn push(&mut self, id: u32, scratch: &mut String) -> Result<Option<usize>, TextError> {
        if self.has_failed || self.stop.stopped_by().is_some() {
            return Ok(None);
        }
        scratch.clear();
        self.has_failed = true;
        self.decode.push_to(id, scratch)?;
        self.has_failed = false;
        if self.unstoppable_tokens > 0 {
            self.unstoppable_tokens -= 1;
            self.visible.push_str(scratch);
            return Ok(None);
        }
        Ok(self.stop.push(scratch, &mut self.visible))
    }
}
