//! How much of the packed weights is in memory, and how much of that in huge pages: asked of the system when somebody
//! wants to know, since it walks the page tables.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::arena::Mapping;

/// Where an executor's packed weights lie. Does not keep them.
#[derive(Clone, Debug, Default)]
pub struct WeightMemory(Vec<Weak<Mapping>>);

/// What the system says of the weights' memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Bytes in memory now; a mapped file's are there once they were touched.
    pub resident_bytes: usize,
    /// Those of them that are mapped by huge pages. 0 with much resident: the system refused.
    pub huge_page_bytes: usize,
    /// This process's share of the resident bytes: what several processes map counts for each in part.
    pub proportional_bytes: usize,
}

impl WeightMemory {
    pub(crate) fn of(images: &[Arc<Mapping>]) -> Self {
        Self(images.iter().map(Arc::downgrade).collect())
    }

    /// Ask the system. `None` where it does not tell (it does on Linux), or if the executor is gone.
    #[must_use]
    pub fn residency(&self) -> Option<Residency> {
        // Held until the end, so that the addresses are not somebody else's.
        let images: Vec<Arc<Mapping>> = self.0.iter().filter_map(Weak::upgrade).collect();
        if images.is_empty() {
            return None;
        }
        let ranges: Vec<Range<usize>> = images
            .iter()
            .map(|image| image.as_ptr() as usize..image.as_ptr() as usize + image.len())
            .collect();
        let smaps = File::open("/proc/self/smaps").ok()?;
        Some(sum(BufReader::new(smaps), &ranges))
    }
}

/// Add up the mappings that begin in one of `ranges`.
fn sum(smaps: impl BufRead, ranges: &[Range<usize>]) -> Residency {
    let mut sum = Residency::default();
    let mut inside = false;
    for line in smaps.lines().map_while(Result::ok) {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(field) = first.strip_suffix(':') {
            let bytes = words.next().and_then(|n| n.parse::<usize>().ok());
            let bytes = bytes.unwrap_or(0) * 1024;
            match field {
                _ if !inside => {}
                "Rss" => sum.resident_bytes += bytes,
                "Pss" => sum.proportional_bytes += bytes,
                "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => {
                    sum.huge_page_bytes += bytes;
                }
                _ => {}
            }
        } else {
            let start = first.split('-').next();
            let start = start.and_then(|start| usize::from_str_radix(start, 16).ok());
            inside = start.is_some_and(|start| ranges.iter().any(|range| range.contains(&start)));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000400000 r--s 00200000 fe:00 131 /cache/a.packed
Size:               4096 kB
Rss:                4096 kB
Pss:                1024 kB
Pss_Dirty:             0 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr me ms sd hg
7f0000400000-7f0000800000 rw-p 00000000 00:00 0
Rss:                 512 kB
AnonHugePages:       512 kB
7f1000000000-7f1000200000 rw-p 00000000 00:00 0 [anon: name with: colons]
Rss:                  64 kB
AnonHugePages:        32 kB
";

    #[test]
    fn only_the_given_ranges_count() {
        let (file, anonymous) = (
            0x7f00_0000_0000..0x7f00_0040_0000,
            0x7f10_0000_0000..0x7f10_0000_1000,
        );
        let of_file = Residency {
            resident_bytes: 4096 << 10,
            huge_page_bytes: 2048 << 10,
            proportional_bytes: 1024 << 10,
        };
        let of = |ranges: &[Range<usize>]| sum(SMAPS.as_bytes(), ranges);
        assert_eq!(of(std::slice::from_ref(&file)), of_file);
        let both = Residency {
            resident_bytes: 4160 << 10,
            huge_page_bytes: 2080 << 10,
            ..of_file
        };
        assert_eq!(of(&[file, anonymous]), both);
        assert_eq!(of(&[]), Residency::default());
    }

    #[test]
    fn a_mapping_is_found_among_the_others() {
        let mapping = Arc::new(Mapping::new(8 << 20, "a test").expect("address space"));
        let memory = WeightMemory::of(std::slice::from_ref(&mapping));
        let Some(before) = memory.residency() else {
            return; // a system without smaps
        };
        assert_eq!(before.resident_bytes, 0);
        // SAFETY: inside the mapping, which nobody else has.
        unsafe { std::ptr::write_bytes(mapping.as_ptr(), 1, 4 << 20) };
        let after = memory.residency().expect("told before");
        assert_eq!(after.resident_bytes, 4 << 20);
        drop(mapping);
        assert_eq!(memory.residency(), None);
    }
}
