//! Masking (RFC 6455 §5.3): every byte a client sends is combined with a repeating key of four bytes.

use super::MaskKey;

/// Masks or unmasks `data` in place: byte `i` becomes `data[i] ^ key[(i + phase) % 4]`.
///
/// `phase` is how many bytes of the frame's payload came before `data`. Applied twice with the same key and phase, it
/// changes nothing.
///
/// Source: RFC 6455 §5.3.
pub fn mask(data: &mut [u8], key: MaskKey, phase: usize) {
    let mut turned = key;
    turned.rotate_left(phase % 4);
    let lane = u32::from_ne_bytes(turned);
    let (words, rest) = data.as_chunks_mut::<4>();
    // A loop over words of the key's length is what the compiler turns into vector instructions; over u64 and u128 it does not.
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ lane).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask_slowly(data: &mut [u8], key: MaskKey, phase: usize) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(index + phase) % 4];
        }
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut data = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        mask(&mut data, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&data, b"Hello");
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_loop(
            data in prop::collection::vec(any::<u8>(), 0..200), key: MaskKey, phase in 0usize..9, skip in 0usize..17,
        ) {
            let skip = skip.min(data.len());
            let (mut fast, mut slow) = (data.clone(), data);
            mask(&mut fast[skip..], key, phase);
            mask_slowly(&mut slow[skip..], key, phase);
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn pieces_make_the_whole(data in prop::collection::vec(any::<u8>(), 0..200), key: MaskKey, cut in 0usize..200) {
            let cut = cut.min(data.len());
            let (mut whole, mut pieces) = (data.clone(), data);
            mask(&mut whole, key, 0);
            let (head, tail) = pieces.split_at_mut(cut);
            mask(head, key, 0);
            mask(tail, key, cut);
            prop_assert_eq!(whole, pieces);
        }
    }
}
