//! What compressors wrote, and what nobody did.

use super::*;

/// Forty events, as gzip compresses them.
const DYNAMIC: [u8; 184] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x9d, 0xd5, 0x4d, 0x0a, 0x02, 0x31, 0x0c, 0x86, 0xe1,
    0xfd, 0x9c, 0xa2, 0xe4, 0x04, 0xe6, 0x8b, 0xbf, 0x73, 0x15, 0x71, 0x31, 0x4c, 0x0b, 0x0a, 0x32, 0x05, 0x2d, 0xb8,
    0x18, 0x7a, 0x77, 0x45, 0xf0, 0x00, 0xbe, 0xbb, 0x12, 0x78, 0x57, 0x79, 0x48, 0xf3, 0xd4, 0xa6, 0x31, 0xad, 0x36,
    0x5f, 0xeb, 0x6d, 0x2e, 0x4f, 0x1b, 0xd3, 0x79, 0xb5, 0x5c, 0xee, 0x6d, 0xb2, 0xef, 0xb8, 0x2e, 0xad, 0x2c, 0xed,
    0xf3, 0xb6, 0x57, 0x7d, 0xe4, 0xb4, 0xb1, 0xde, 0x2f, 0x7d, 0x18, 0xf2, 0x7f, 0x99, 0xb3, 0x4c, 0x2c, 0x0b, 0x96,
    0x6d, 0x59, 0xb6, 0x63, 0xd9, 0x9e, 0x65, 0x07, 0x96, 0x1d, 0x59, 0x76, 0x82, 0xeb, 0xa6, 0x4c, 0xa0, 0x13, 0x87,
    0x50, 0x1c, 0x4a, 0x71, 0x48, 0xc5, 0xa1, 0x15, 0x87, 0x58, 0x1c, 0x6a, 0x71, 0xc8, 0xc5, 0xa1, 0x17, 0x41, 0x2f,
    0xa2, 0x77, 0x05, 0x7a, 0x11, 0xf4, 0x22, 0xe8, 0x45, 0xd0, 0x8b, 0xa0, 0x17, 0x41, 0x2f, 0x82, 0x5e, 0x04, 0xbd,
    0x04, 0xf4, 0x12, 0xd0, 0x4b, 0xd0, 0x8f, 0x08, 0x7a, 0x09, 0xe8, 0x25, 0xa0, 0x97, 0x80, 0x5e, 0x02, 0x7a, 0x09,
    0xe8, 0x25, 0x7e, 0x5e, 0xde, 0x54, 0xd8, 0xa7, 0xcf, 0xb6, 0x08, 0x00, 0x00,
];

fn text() -> Vec<u8> {
    let event = |at| format!("data: {{\"choices\": [{{\"delta\": {{\"content\": \"word {at}\"}}}}]}}\n\n");
    (0..40).map(event).collect::<String>().into_bytes()
}

fn inflated(coding: Coding, bytes: &[u8], size: usize) -> Vec<u8> {
    let mut inflate = Inflate::new(coding);
    bytes
        .chunks(size)
        .flat_map(|piece| inflate.feed(piece).to_vec())
        .collect()
}

/// Bits in the order in which they are read.
fn packed(bits: &str) -> Vec<u8> {
    let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').map(|bit| bit - b'0').collect();
    let byte = |bits: &[u8]| bits.iter().enumerate().map(|(at, bit)| bit << at).sum();
    bits.chunks(8).map(byte).collect()
}

#[test]
fn what_gzip_compressed_is_read_however_it_is_cut() {
    for size in 1..DYNAMIC.len() {
        assert_eq!(inflated(Coding::Gzip, &DYNAMIC, size), text(), "pieces of {}", size);
    }
}

#[test]
fn fixed_codes_and_stored_blocks_are_read() {
    // zlib: not the last block, fixed codes: "a", a copy of 3 from 1 back, end; then a last block, stored: "xyz".
    let mut bytes = vec![0x78, 0x9c];
    bytes.extend(packed("0 10 10010001 0000001 00000 0000000 1 00"));
    bytes.extend([3, 0, 0xfc, 0xff]);
    bytes.extend(b"xyz");
    bytes.extend([1, 2, 3, 4]); // a checksum, which nobody looks at
    for size in 1..bytes.len() {
        assert_eq!(inflated(Coding::Zlib, &bytes, size), b"aaaaxyz");
    }
}

#[test]
fn all_header_fields_of_gzip_are_skipped() {
    let mut bytes = vec![0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3, 2, 0, b'e', b'x'];
    bytes.extend(b"name\0comment\0");
    bytes.extend([0, 0]);
    bytes.extend([1, 3, 0, 0xfc, 0xff]);
    bytes.extend(b"xyz");
    assert_eq!(inflated(Coding::Gzip, &bytes, 3), b"xyz");
}

#[test]
fn nonsense_and_bombs_are_not_read_on() {
    for bytes in [
        &b"plain text, not compressed"[..],
        &[0x1f, 0x8b, 8, 0xff],
        &[0x78, 0x9c, 0x07, 0xff],
    ] {
        assert_eq!(inflated(Coding::Gzip, bytes, 100), b"");
        assert_eq!(inflated(Coding::Zlib, bytes, 100), b"");
    }
    // A fixed block of copies of 258 bytes from 1 back, 13 bits each.
    let mut bits = "1 10 10010001".to_string();
    bits.push_str(&"11000101 00000".repeat(40_000));
    let mut bytes = vec![0x78, 0x9c];
    bytes.extend(packed(&bits));
    let mut inflate = Inflate::new(Coding::Zlib);
    assert!(inflate.feed(&bytes).len() <= MOST_AT_ONCE + 258);
    assert_eq!(inflate.feed(&bytes).len(), 0);
}

#[test]
fn mutated_input_neither_panics_nor_grows() {
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..3000 {
        let mut bytes = DYNAMIC.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        assert!(inflated(Coding::Gzip, &bytes, 1 + random(100)).len() < 1 << 20);
    }
}
