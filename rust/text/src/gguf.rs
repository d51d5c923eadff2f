//! A tokenizer from the metadata of a GGUF file alone.
//!
//! Road not taken: building the objects of the `tokenizers` crate, which the crate keeps for `tokenizer.json`. It wants
//! every token and merge as an owned string, twice; figures are in `bench/results/tokenizer.json`.

use std::borrow::Cow;

use crate::added_tokens::AddedTokens;
use crate::byte_level;
use crate::byte_pair::BytePairModel;
use crate::error::TextError;
use crate::native::{Model, NativeTokenizer};
use crate::piece_index::PieceIndex;
use crate::pre_tokenizer::PreTokenizer;
use crate::sentence_piece::SentencePieceModel;
use crate::special_tokens::{self, SpecialTokens};
use crate::token_table::{LeadingSpace, TokenKind, TokenTable};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";

/// The `tokenizer.ggml.*` keys of a GGUF file. `None` is a key that the file does not have.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufVocabulary<'a> {
    /// `model`: `"gpt2"` (byte-level BPE) or `"llama"` (`SentencePiece` BPE).
    pub model: &'a str,
    /// `pre`: how byte-level BPE cuts text into words.
    pub pre: Option<&'a str>,
    /// `tokens`, by id.
    pub tokens: &'a [&'a str],
    /// `scores`, by id; required by `"llama"`.
    pub scores: Option<&'a [f32]>,
    /// `token_type`, by id; without it all tokens are normal.
    pub token_types: Option<&'a [i32]>,
    /// `merges`, best first; required by `"gpt2"`.
    pub merges: Option<&'a [&'a str]>,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `eot_token_id`.
    pub eot_token_id: Option<u32>,
    /// `eom_token_id`.
    pub eom_token_id: Option<u32>,
    /// `unknown_token_id`.
    pub unknown_token_id: Option<u32>,
    /// `padding_token_id`.
    pub padding_token_id: Option<u32>,
    /// `add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`.
    pub add_eos_token: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// How the two kinds of vocabulary write their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    ByteLevel,
    SentencePiece,
}

impl GgufVocabulary<'_> {
    pub(crate) fn build(&self) -> Result<NativeTokenizer, TextError> {
        let spelling = match self.model {
            "gpt2" => Spelling::ByteLevel,
            "llama" => Spelling::SentencePiece,
            other => {
                return Err(TextError::UnsupportedTokenizer {
                    field: "tokenizer.ggml.model",
                    found: other.to_owned(),
                    supported: "gpt2, llama".to_owned(),
                });
            }
        };
        if self.tokens.is_empty() {
            return Err(TextError::vocabulary(TOKENS, "missing or empty"));
        }
        let mut vocabulary = self.read_tokens(spelling)?;
        let special = self.special_tokens(&mut vocabulary, spelling)?;
        let model = match spelling {
            Spelling::ByteLevel => self.byte_pair(&vocabulary)?,
            Spelling::SentencePiece => self.sentence_piece(&vocabulary, &special)?,
        };
        let table = &vocabulary.table;
        let literals = |wanted: fn(TokenKind) -> bool| {
            let chosen = table.iter().filter(move |&(_, kind)| wanted(kind));
            AddedTokens::new(chosen.filter_map(|(id, _)| Some((id, table.bytes(id)?))))
        };
        Ok(NativeTokenizer {
            user_defined: literals(|kind| kind == TokenKind::UserDefined)?,
            user_defined_and_control: literals(|kind| {
                matches!(
                    kind,
                    TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown
                )
            })?,
            table: vocabulary.table,
            pieces: vocabulary.pieces,
            literals: vocabulary.literals,
            byte_ids: vocabulary.byte_ids,
            model,
            special,
        })
    }

    fn read_tokens(&self, spelling: Spelling) -> Result<Vocabulary, TextError> {
        let num_tokens = self.tokens.len();
        if let Some(types) = self.token_types
            && types.len() != num_tokens
        {
            let problem = format!("{} entries for {num_tokens} tokens", types.len());
            return Err(TextError::vocabulary(TOKEN_TYPES, problem));
        }
        let leading_space = match spelling {
            Spelling::SentencePiece if self.add_space_prefix.unwrap_or(true) => {
                LeadingSpace::DropOne
            }
            _ => LeadingSpace::Keep,
        };
        let mut vocabulary = Vocabulary {
            table: TokenTable::with_capacity(num_tokens, leading_space),
            pieces: PieceIndex::with_capacity(num_tokens),
            literals: PieceIndex::with_capacity(0),
            byte_ids: [None; 256],
        };
        for (index, &token) in self.tokens.iter().enumerate() {
            let kind = self.token_kind(index, token)?;
            vocabulary.push(token, kind, spelling)?;
        }
        Ok(vocabulary)
    }

    fn token_kind(&self, index: usize, token: &str) -> Result<TokenKind, TextError> {
        let kind = match self.token_types.map_or(1, |types| types[index]) {
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            other => {
                let problem = format!("entry {index} is {other}; the types are 1 to 6");
                return Err(TextError::vocabulary(TOKEN_TYPES, problem));
            }
        };
        // Some converters leave these ordinary; then a chat template could never write them.
        Ok(if special_tokens::ends_a_turn_everywhere(token) {
            TokenKind::Control
        } else {
            kind
        })
    }

    fn special_tokens(
        &self,
        vocabulary: &mut Vocabulary,
        spelling: Spelling,
    ) -> Result<SpecialTokens, TextError> {
        let num_tokens = self.tokens.len();
        let check = |field: &'static str, id: Option<u32>| match id {
            Some(id) if id as usize >= num_tokens => Err(TextError::vocabulary(
                field,
                format!("{id}, but there are {num_tokens} tokens"),
            )),
            _ => Ok(id),
        };
        let bos_id = check("tokenizer.ggml.bos_token_id", self.bos_token_id)?;
        let eos_id = check("tokenizer.ggml.eos_token_id", self.eos_token_id)?;
        let end_of_turn_id = check("tokenizer.ggml.eot_token_id", self.eot_token_id)?;
        let end_of_message_id = check("tokenizer.ggml.eom_token_id", self.eom_token_id)?;
        let unknown_id = check("tokenizer.ggml.unknown_token_id", self.unknown_token_id)?;
        let pad_id = check("tokenizer.ggml.padding_token_id", self.padding_token_id)?;
        let adds_bos_by_default = match spelling {
            Spelling::ByteLevel => PreTokenizer::adds_bos(self.pre_name()),
            Spelling::SentencePiece => true,
        };
        let need = |wanted: bool, key, id: Option<u32>| match (wanted, id) {
            (true, None) => Err(TextError::vocabulary(
                key,
                "true, but the file does not say which token that is",
            )),
            _ => Ok(()),
        };
        need(
            self.add_bos_token == Some(true),
            "tokenizer.ggml.add_bos_token",
            bos_id,
        )?;
        need(
            self.add_eos_token == Some(true),
            "tokenizer.ggml.add_eos_token",
            eos_id,
        )?;
        for id in [end_of_turn_id, end_of_message_id].into_iter().flatten() {
            vocabulary.table.set_kind(id, TokenKind::Control);
        }
        let control = vocabulary
            .table
            .iter()
            .filter(|&(_, kind)| kind == TokenKind::Control);
        let control = control.map(|(id, _)| (id, self.tokens[id as usize]));
        Ok(SpecialTokens {
            bos_id,
            eos_id,
            eot_id: end_of_turn_id,
            unknown_id,
            pad_id,
            end_ids: special_tokens::end_ids(
                [eos_id, end_of_turn_id, end_of_message_id]
                    .into_iter()
                    .flatten(),
                control,
            ),
            add_bos: self
                .add_bos_token
                .unwrap_or(adds_bos_by_default && bos_id.is_some()),
            add_eos: self.add_eos_token.unwrap_or(false),
        })
    }

    fn pre_name(&self) -> &str {
        self.pre.unwrap_or("default")
    }

    fn byte_pair(&self, vocabulary: &Vocabulary) -> Result<Model, TextError> {
        let Some(merges) = self.merges else {
            return Err(TextError::vocabulary(
                "tokenizer.ggml.merges",
                "missing; model \"gpt2\" needs it",
            ));
        };
        let pre_tokenizer = PreTokenizer::named(self.pre_name())?;
        let (table, pieces) = (&vocabulary.table, &vocabulary.pieces);
        Ok(Model::BytePair(BytePairModel::new(
            table,
            pieces,
            merges,
            pre_tokenizer,
        )?))
    }

    fn sentence_piece(
        &self,
        vocabulary: &Vocabulary,
        special: &SpecialTokens,
    ) -> Result<Model, TextError> {
        let Some(scores) = self.scores else {
            return Err(TextError::vocabulary(
                "tokenizer.ggml.scores",
                "missing; model \"llama\" needs it",
            ));
        };
        let table = &vocabulary.table;
        let mergeable = table
            .iter()
            .filter(|&(_, kind)| is_mergeable(kind))
            .map(|(id, _)| id);
        let model = SentencePieceModel::new(
            table,
            mergeable,
            scores,
            &vocabulary.byte_ids,
            special.unknown_id,
        )?;
        Ok(Model::SentencePiece {
            model,
            add_space_prefix: self.add_space_prefix.unwrap_or(true),
        })
    }
}

/// Tokens that merging may produce. Control tokens are not among them: plain text never becomes one.
fn is_mergeable(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
    )
}

struct Vocabulary {
    table: TokenTable,
    /// Tokens that merging may produce, by output bytes.
    pieces: PieceIndex,
    /// All others but byte tokens, by their text.
    literals: PieceIndex,
    byte_ids: [Option<u32>; 256],
}

impl Vocabulary {
    fn push(&mut self, token: &str, kind: TokenKind, spelling: Spelling) -> Result<(), TextError> {
        let mut is_piece = false;
        let mut byte = None;
        let id = self.table.push(|out| {
            match (spelling, kind) {
                (_, TokenKind::Byte) => {
                    let value = parse_byte(token).ok_or_else(|| {
                        TextError::vocabulary(
                            TOKENS,
                            format!("{token:?} has type byte but is not <0x00> to <0xFF>"),
                        )
                    })?;
                    byte = Some(value);
                    out.push(value);
                }
                (Spelling::ByteLevel, TokenKind::Normal | TokenKind::Unused) => {
                    is_piece = byte_level::push_bytes(token, out);
                    if !is_piece {
                        out.extend_from_slice(token.as_bytes());
                    }
                }
                (Spelling::SentencePiece, TokenKind::Normal | TokenKind::Unused) => {
                    is_piece = !token.contains(' ');
                    out.extend_from_slice(unescape(token).as_bytes());
                }
                (Spelling::SentencePiece, TokenKind::UserDefined) => {
                    is_piece = true;
                    out.extend_from_slice(token.as_bytes());
                }
                _ => out.extend_from_slice(token.as_bytes()),
            }
            Ok(kind)
        })?;
        if token.is_empty() {
            return Ok(());
        }
        let twin = if let Some(byte) = byte {
            self.byte_ids[usize::from(byte)].replace(id)
        } else {
            let index = if is_piece {
                &mut self.pieces
            } else {
                &mut self.literals
            };
            index.insert(&self.table, id).err()
        };
        match twin {
            // "▁x" and a user-defined " x" are the same text, found by different rules.
            Some(twin) if self.table.kind(twin) == Some(kind) => Err(TextError::vocabulary(
                TOKENS,
                format!("tokens {twin} and {id} are both {token:?}"),
            )),
            _ => Ok(()),
        }
    }
}

/// `▁` is how `SentencePiece` writes a space.
fn unescape(token: &str) -> Cow<'_, str> {
    if token.contains('▁') {
        Cow::Owned(token.replace('▁', " "))
    } else {
        Cow::Borrowed(token)
    }
}

/// The byte that `<0x41>` stands for.
pub(crate) fn parse_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}
