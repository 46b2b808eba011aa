//! Tensor maps: 128 bytes that a kernel of this device cannot use, but that a program can make.
//!
//! The bytes depend on every argument and hold the address at the front, so that whoever carries them
//! about can be seen to have carried the right ones.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::abi::{In, Out};
use crate::entry::api;
use crate::errors::{Code, Res};

type TensorMap = [u64; 16];

fn fingerprint(address: u64, words: &[u64]) -> TensorMap {
    let mut map = [0; 16];
    map[0] = address;
    for (index, word) in map.iter_mut().enumerate().skip(1) {
        let mut hasher = DefaultHasher::new();
        (index, words).hash(&mut hasher);
        *word = hasher.finish();
    }
    map
}

fn shape(rank: u32, address: In<u8>) -> Res<usize> {
    if !(1..=5).contains(&rank) || address.is_null() || !address.address().is_multiple_of(16) {
        return Err(Code::INVALID_VALUE);
    }
    usize::try_from(rank).map_err(|_| Code::INVALID_VALUE)
}

api! {
    fn cuTensorMapEncodeTiled(
        out: Out<TensorMap>, kind: u32, rank: u32, address: In<u8>, dims: In<u64>, strides: In<u64>,
        boxes: In<u32>, steps: In<u32>, interleave: u32, swizzle: u32, promotion: u32, fill: u32,
    ) [any] {
        let count = shape(rank, address)?;
        let mut words = vec![u64::from(kind), u64::from(rank)];
        words.extend(dims.list(count)?);
        words.extend(strides.list(count - 1)?);
        words.extend(boxes.list(count)?.into_iter().map(u64::from));
        words.extend(steps.list(count)?.into_iter().map(u64::from));
        words.extend([interleave, swizzle, promotion, fill].map(u64::from));
        out.set(fingerprint(address.address(), &words))
    }

    fn cuTensorMapEncodeIm2col(
        out: Out<TensorMap>, kind: u32, rank: u32, address: In<u8>, dims: In<u64>, strides: In<u64>,
        lower: In<i32>, upper: In<i32>, channels: u32, pixels: u32, steps: In<u32>, interleave: u32, swizzle: u32,
        promotion: u32, fill: u32,
    ) [any] {
        let count = shape(rank, address)?;
        let corners = count.checked_sub(2).filter(|corners| *corners > 0).ok_or(Code::INVALID_VALUE)?;
        let mut words = vec![u64::from(kind), u64::from(rank), u64::from(channels), u64::from(pixels)];
        words.extend(dims.list(count)?);
        words.extend(strides.list(count - 1)?);
        words.extend(lower.list(corners)?.into_iter().map(|corner| u64::from(corner.cast_unsigned())));
        words.extend(upper.list(corners)?.into_iter().map(|corner| u64::from(corner.cast_unsigned())));
        words.extend(steps.list(count)?.into_iter().map(u64::from));
        words.extend([interleave, swizzle, promotion, fill].map(u64::from));
        out.set(fingerprint(address.address(), &words))
    }

    fn cuTensorMapReplaceAddress(map: Out<TensorMap>, address: In<u8>) [any] {
        shape(1, address)?;
        let mut words = map.get()?;
        words[0] = address.address();
        map.set(words)
    }
}
