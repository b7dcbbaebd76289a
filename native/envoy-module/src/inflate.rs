//! Decompresses answers (gzip, and deflate with zlib's header; RFC 1950 to 1952) as they pass, to read them: what goes on to
//! the client is what came. Checksums are the client's business. For [`crate::flight`].
//!
//! Input comes in pieces, so decoding stops wherever bits are missing, and goes on there. Memory is bounded by the
//! format's window of 32 KiB and by what one piece brings.

/// How far back copies may reach.
const WINDOW: usize = 32 * 1024;
/// What one piece of input may become at most; a bomb is not read on.
const MOST_AT_ONCE: usize = 4 << 20;
const LONGEST_CODE: usize = 15;

/// Bits are missing: come back with more input.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// More input is needed.
    Hungry,
    /// This is no such format.
    Broken,
}

type Step<T> = Result<T, Stop>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Header,
    Block,
    Stored(usize),
    Codes,
    Done,
    Broken,
}

/// A code of Huffman's, canonical: how many codes of each length there are, and their symbols in order.
#[derive(Debug, Clone, Default)]
struct Code {
    counts: [u16; LONGEST_CODE + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn of(lengths: &[u8]) -> Self {
        let mut code = Code {
            counts: [0; LONGEST_CODE + 1],
            symbols: vec![0; lengths.len()],
        };
        for &length in lengths {
            code.counts[usize::from(length)] += 1;
        }
        let mut next = [0u16; LONGEST_CODE + 2];
        for length in 1..=LONGEST_CODE {
            next[length + 1] = next[length] + code.counts[length];
        }
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, &length)| length > 0) {
            code.symbols[usize::from(next[usize::from(length)])] = symbol as u16;
            next[usize::from(length)] += 1;
        }
        code.counts[0] = 0;
        code
    }
}

/// Input that was not used yet, read bit by bit.
#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn take(&mut self, count: u32) -> Step<u32> {
        if self.at + count as usize > self.bytes.len() * 8 {
            return Err(Stop::Hungry);
        }
        let mut value = 0;
        for bit in 0..count {
            value |= u32::from(self.bytes[self.at / 8] >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(value)
    }

    fn byte(&mut self) -> Step<u8> {
        self.take(8).map(|byte| byte as u8)
    }

    fn symbol(&mut self, code: &Code) -> Step<u16> {
        let (mut value, mut first, mut index) = (0i32, 0i32, 0i32);
        for length in 1..=LONGEST_CODE {
            value |= self.take(1)? as i32;
            let count = i32::from(code.counts[length]);
            if value - count < first {
                let place = usize::try_from(index + value - first).map_err(|_| Stop::Broken)?;
                return code.symbols.get(place).copied().ok_or(Stop::Broken);
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(Stop::Broken)
    }

    fn skip_to_byte(&mut self) {
        self.at = (self.at + 7) / 8 * 8;
    }

    /// Forgets what was used.
    fn forget(&mut self) {
        self.bytes.drain(..self.at / 8);
        self.at %= 8;
    }
}

/// How an answer may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `deflate`, which means zlib's format.
    Zlib,
}

impl Coding {
    /// By the name in `content-encoding`.
    pub fn of(name: &[u8]) -> Option<Coding> {
        match name {
            b"gzip" | b"x-gzip" => Some(Coding::Gzip),
            b"deflate" => Some(Coding::Zlib),
            _ => None,
        }
    }
}

/// An answer that is being decompressed.
#[derive(Debug)]
pub struct Inflate {
    coding: Coding,
    at: At,
    last_block: bool,
    bits: Bits,
    literals: Code,
    distances: Code,
    out: Vec<u8>,
}

const LENGTHS: [(u16, u32); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
const DISTANCES: [(u16, u32); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

impl Inflate {
    /// Nothing came yet.
    pub fn new(coding: Coding) -> Self {
        Inflate {
            coding,
            at: At::Header,
            last_block: false,
            bits: Bits::default(),
            literals: Code::default(),
            distances: Code::default(),
            out: Vec::new(),
        }
    }

    /// What these bytes become, as far as they can be read.
    pub fn feed(&mut self, bytes: &[u8]) -> &[u8] {
        let keep = self.out.len().saturating_sub(WINDOW);
        self.out.drain(..keep);
        let start = self.out.len();
        if !matches!(self.at, At::Done | At::Broken) {
            self.bits.bytes.extend_from_slice(bytes);
            if self.at == At::Header && self.bits.bytes.len() > bytes.len() + WINDOW {
                self.at = At::Broken; // an endless header
            }
            while !matches!(self.at, At::Done | At::Broken) {
                let before = self.bits.at;
                match self.step() {
                    Ok(()) if self.out.len() - start <= MOST_AT_ONCE => {}
                    Err(Stop::Hungry) => {
                        self.bits.at = before;
                        break;
                    }
                    _ => self.at = At::Broken,
                }
            }
            self.bits.forget();
        }
        &self.out[start..]
    }

    fn step(&mut self) -> Step<()> {
        match self.at {
            At::Header => {
                match self.coding {
                    Coding::Gzip => self.gzip_header()?,
                    Coding::Zlib => self.zlib_header()?,
                }
                self.at = At::Block;
                Ok(())
            }
            At::Block if self.last_block => {
                self.at = At::Done;
                Ok(())
            }
            At::Block => self.block(),
            At::Stored(0) => {
                self.at = At::Block;
                Ok(())
            }
            At::Stored(left) => {
                let byte = self.bits.byte()?;
                self.out.push(byte);
                self.at = At::Stored(left - 1);
                Ok(())
            }
            At::Codes => self.code(),
            At::Done | At::Broken => Ok(()),
        }
    }

    fn gzip_header(&mut self) -> Step<()> {
        let bits = &mut self.bits;
        let known = (bits.byte()?, bits.byte()?, bits.byte()?) == (0x1f, 0x8b, 8);
        let flags = bits.byte()?;
        if !known || flags > 0x1f {
            return Err(Stop::Broken);
        }
        let _ = (bits.take(32)?, bits.take(16)?); // time, hints, system
        if flags & 4 != 0 {
            for _ in 0..bits.take(16)? {
                let _ = bits.byte()?;
            }
        }
        for flag in [8, 16] {
            while flags & flag != 0 && bits.byte()? != 0 {}
        }
        if flags & 2 != 0 {
            let _ = bits.take(16)?;
        }
        Ok(())
    }

    fn zlib_header(&mut self) -> Step<()> {
        let (method, flags) = (self.bits.byte()?, self.bits.byte()?);
        let checked = (u32::from(method) * 256 + u32::from(flags)) % 31 == 0;
        if method & 0x0f != 8 || !checked || flags & 0x20 != 0 {
            return Err(Stop::Broken);
        }
        Ok(())
    }

    fn block(&mut self) -> Step<()> {
        let last = self.bits.take(1)? == 1;
        let next = match self.bits.take(2)? {
            0 => {
                self.bits.skip_to_byte();
                let (length, check) = (self.bits.take(16)?, self.bits.take(16)?);
                if length != !check & 0xffff {
                    return Err(Stop::Broken);
                }
                At::Stored(length as usize)
            }
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|symbol| match symbol {
                        0..=143 => 8,
                        144..=255 => 9,
                        256..=279 => 7,
                        _ => 8,
                    })
                    .collect();
                self.literals = Code::of(&lengths);
                self.distances = Code::of(&[5; 30]);
                At::Codes
            }
            2 => {
                self.read_codes()?;
                At::Codes
            }
            _ => return Err(Stop::Broken),
        };
        self.last_block = last;
        self.at = next;
        Ok(())
    }

    fn read_codes(&mut self) -> Step<()> {
        let bits = &mut self.bits;
        let literals = bits.take(5)? as usize + 257;
        let distances = bits.take(5)? as usize + 1;
        let count = bits.take(4)? as usize + 4;
        if literals > 286 || distances > 30 {
            return Err(Stop::Broken);
        }
        let mut of_lengths = [0u8; 19];
        for &place in &ORDER[..count] {
            of_lengths[place] = bits.take(3)? as u8;
        }
        let code = Code::of(&of_lengths);
        let mut lengths: Vec<u8> = Vec::with_capacity(literals + distances);
        while lengths.len() < literals + distances {
            let (length, times) = match bits.symbol(&code)? {
                symbol @ 0..=15 => (symbol as u8, 1),
                16 => (*lengths.last().ok_or(Stop::Broken)?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                _ => (0, 11 + bits.take(7)?),
            };
            lengths.extend((0..times).map(|_| length));
        }
        if lengths.len() > literals + distances {
            return Err(Stop::Broken);
        }
        self.literals = Code::of(&lengths[..literals]);
        self.distances = Code::of(&lengths[literals..]);
        Ok(())
    }

    /// One byte, one copy, or the block's end.
    fn code(&mut self) -> Step<()> {
        let symbol = usize::from(self.bits.symbol(&self.literals)?);
        match symbol {
            0..=255 => self.out.push(symbol as u8),
            256 => self.at = At::Block,
            _ => {
                let &(base, extra) = LENGTHS.get(symbol - 257).ok_or(Stop::Broken)?;
                let length = usize::from(base) + self.bits.take(extra)? as usize;
                let symbol = usize::from(self.bits.symbol(&self.distances)?);
                let &(base, extra) = DISTANCES.get(symbol).ok_or(Stop::Broken)?;
                let distance = usize::from(base) + self.bits.take(extra)? as usize;
                let from = self.out.len().checked_sub(distance).ok_or(Stop::Broken)?;
                for at in from..from + length {
                    let byte = self.out[at];
                    self.out.push(byte);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
