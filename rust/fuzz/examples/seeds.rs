//! Writes `seeds/` (what is there by another name stays) and `dictionaries/`: `make fuzz-seeds`.

use std::fmt::Write;
use std::{fs, io, path::Path};

use inferlib_fuzz::{TARGETS, samples};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, name, contents) in samples::seeds() {
        let folder = root.join("seeds").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), contents)?;
    }
    fs::create_dir_all(root.join("dictionaries"))?;
    for target in TARGETS.iter().filter(|target| !target.words.is_empty()) {
        let mut text = String::new();
        for word in target.words {
            let _infallible = writeln!(text, "\"{}\"", escaped(word));
        }
        let path = root
            .join("dictionaries")
            .join(format!("{}.dict", target.name));
        fs::write(path, text)?;
    }
    Ok(())
}

/// As libFuzzer reads words.
fn escaped(word: &str) -> String {
    let mut text = String::new();
    for byte in word.bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _infallible = write!(text, "\\x{byte:02X}");
            }
        }
    }
    text
}
