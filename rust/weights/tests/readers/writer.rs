//! A GGUF writer that does what it is told, right or wrong.

/// A metadata value: its type number and its bytes.
#[derive(Clone)]
pub(crate) struct Value {
    pub(crate) type_number: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Value {
    pub(crate) fn u32(value: u32) -> Self {
        Self {
            type_number: 4,
            bytes: value.to_le_bytes().into(),
        }
    }

    pub(crate) fn string(text: &str) -> Self {
        Self {
            type_number: 8,
            bytes: string(text),
        }
    }

    pub(crate) fn array(type_number: u32, count: usize, elements: &[u8]) -> Self {
        let mut bytes = type_number.to_le_bytes().to_vec();
        bytes.extend(u64::try_from(count).unwrap().to_le_bytes());
        bytes.extend(elements);
        Self {
            type_number: 9,
            bytes,
        }
    }

    pub(crate) fn strings(texts: &[&str]) -> Self {
        let elements: Vec<u8> = texts.iter().flat_map(|text| string(text)).collect();
        Self::array(8, texts.len(), &elements)
    }
}

/// One tensor: dimensions innermost first as in the file, ggml's type number, data.
#[derive(Clone)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) type_number: u32,
    pub(crate) data: Vec<u8>,
    /// Where the header says it is, if not where it is.
    pub(crate) offset: Option<u64>,
}

/// A file to be written.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) pairs: Vec<(String, Value)>,
    pub(crate) tensors: Vec<TensorSpec>,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            version: 3,
            alignment: 32,
            pairs: Vec::new(),
            tensors: Vec::new(),
        }
    }

    pub(crate) fn pair(mut self, key: &str, value: Value) -> Self {
        self.pairs.push((key.to_owned(), value));
        self
    }

    pub(crate) fn tensor(
        mut self,
        name: &str,
        dimensions: &[u64],
        type_number: u32,
        data: &[u8],
    ) -> Self {
        self.tensors.push(TensorSpec {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            type_number,
            data: data.to_vec(),
            offset: None,
        });
        self
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = self.header().bytes;
        for tensor in &self.tensors {
            pad(&mut file, self.alignment);
            file.extend(&tensor.data);
        }
        pad(&mut file, self.alignment);
        file
    }

    /// The header, and where its integers are.
    pub(crate) fn header(&self) -> Header {
        let mut header = Header::default();
        header.bytes.extend(b"GGUF");
        header.u32(self.version);
        header.u64(u64::try_from(self.tensors.len()).unwrap());
        header.u64(u64::try_from(self.pairs.len()).unwrap());
        for (key, value) in &self.pairs {
            header.string(key);
            header.u32(value.type_number);
            if value.type_number == 8 || value.type_number == 9 {
                header.integers.push((
                    header.bytes.len(),
                    if value.type_number == 8 { 8 } else { 4 },
                ));
            }
            if value.type_number == 9 {
                header.integers.push((header.bytes.len() + 4, 8));
                header.integers.push((header.bytes.len() + 12, 8));
            }
            header.bytes.extend(&value.bytes);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            header.string(&tensor.name);
            header.u32(u32::try_from(tensor.dimensions.len()).unwrap());
            for &dimension in &tensor.dimensions {
                header.u64(dimension);
            }
            header.u32(tensor.type_number);
            header.u64(tensor.offset.unwrap_or(offset));
            let end = offset + u64::try_from(tensor.data.len()).unwrap();
            offset = end.next_multiple_of(u64::try_from(self.alignment).unwrap());
        }
        header
    }
}

#[derive(Default)]
pub(crate) struct Header {
    pub(crate) bytes: Vec<u8>,
    /// Position and width of each integer.
    pub(crate) integers: Vec<(usize, usize)>,
}

impl Header {
    fn u32(&mut self, value: u32) {
        self.integers.push((self.bytes.len(), 4));
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.integers.push((self.bytes.len(), 8));
        self.bytes.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.integers.push((self.bytes.len(), 8));
        self.bytes.extend(string(text));
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u64::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn pad(file: &mut Vec<u8>, alignment: usize) {
    file.resize(file.len().next_multiple_of(alignment), 0);
}
