//! GPT-2's alphabet: every byte written as one printable character, so that vocabularies are text.
//!
//! Bytes that print stand for themselves; the other 68 are U+0100, U+0101, … in ascending order.

const FIRST_SUBSTITUTE: u32 = 0x100;
const NUM_SUBSTITUTES: u32 = 68;

const BYTE_TO_CHAR: [char; 256] = byte_to_char_table();
const CHAR_TO_BYTE: [Option<u8>; (FIRST_SUBSTITUTE + NUM_SUBSTITUTES) as usize] =
    char_to_byte_table();

const fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the index of a table of 256 is a byte"
)]
const fn byte_to_char_table() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut substitute = FIRST_SUBSTITUTE;
    let mut byte = 0;
    while byte < 256 {
        let code = if prints(byte as u8) {
            byte as u32
        } else {
            substitute += 1;
            substitute - 1
        };
        table[byte] = match char::from_u32(code) {
            Some(character) => character,
            None => panic!("codes below U+0144 are characters"),
        };
        byte += 1;
    }
    assert!(substitute == FIRST_SUBSTITUTE + NUM_SUBSTITUTES);
    table
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the index of a table of 256 is a byte"
)]
const fn char_to_byte_table() -> [Option<u8>; (FIRST_SUBSTITUTE + NUM_SUBSTITUTES) as usize] {
    let mut table = [None; (FIRST_SUBSTITUTE + NUM_SUBSTITUTES) as usize];
    let mut byte = 0;
    while byte < 256 {
        table[BYTE_TO_CHAR[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    table
}

/// Write the bytes that `text` stands for after `out`; on a character that stands for none, leave `out` as it was.
pub(crate) fn push_bytes(text: &str, out: &mut Vec<u8>) -> bool {
    let length = out.len();
    for character in text.chars() {
        let Some(&Some(byte)) = CHAR_TO_BYTE.get(character as usize) else {
            out.truncate(length);
            return false;
        };
        out.push(byte);
    }
    true
}

/// The bytes that `text` stands for, if each of its characters stands for one.
pub(crate) fn to_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    push_bytes(text, &mut bytes).then_some(bytes)
}

/// `bytes` in GPT-2's alphabet.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| BYTE_TO_CHAR[usize::from(byte)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = to_text(&all);
        assert_eq!(text.chars().count(), 256);
        assert_eq!(to_bytes(&text), Some(all));
    }

    #[test]
    fn the_alphabet_is_gpt2s() {
        assert_eq!(
            to_text(b" \n\ta\x7f\xad\xff\0"),
            "ĠĊĉa¡ŃÿĀ".replace('¡', "\u{121}")
        );
    }

    #[test]
    fn other_characters_stand_for_nothing() {
        let mut out = b"x".to_vec();
        assert!(!push_bytes("a▁", &mut out));
        assert!(!push_bytes("a b", &mut out));
        assert_eq!(out, b"x");
    }

    /// The tables are made when the crate is built; what makes them can be looked at when it runs as well.
    #[test]
    fn bytes_that_print_stand_for_themselves_and_the_others_follow_one_another() {
        let table = byte_to_char_table();
        assert_eq!(table, BYTE_TO_CHAR);
        let mut substitutes = Vec::new();
        for (byte, character) in (0..=255).zip(table) {
            if prints(byte) {
                assert_eq!(character, char::from(byte));
            } else {
                substitutes.push(u32::from(character));
            }
        }
        assert!(substitutes.into_iter().eq(0x100..0x144));
        let back = char_to_byte_table();
        assert_eq!(back, CHAR_TO_BYTE);
        assert_eq!(back.iter().flatten().count(), 256);
        assert_eq!((back[0x20], back[0x7F], back[0xAD]), (None, None, None));
    }
}
