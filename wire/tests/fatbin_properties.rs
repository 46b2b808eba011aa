//! Properties of the fat binary reader over generated containers and over random bytes.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "../fuzz/checks/fatbin.rs"]
mod checks;
mod fatbin_images;

use fatbin_images::*;
use fusewire_wire::fatbin::*;
use proptest::prelude::*;

fn entry() -> impl Strategy<Value = EntrySpec> {
    let kind = prop_oneof![3 => Just(2_u16), 2 => Just(1_u16), 1 => any::<u16>()];
    let sm = prop_oneof![
        4 => proptest::sample::select(vec![75_u32, 80, 86, 89, 90, 100, 103, 120]),
        1 => any::<u32>(),
    ];
    let header_bytes = proptest::sample::select(vec![64_usize, 72, 80, 96, 104, 112, 120]);
    let data = proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..200);
    (kind, sm, header_bytes, data, any::<bool>(), any::<u64>()).prop_map(
        |(kind, sm, header_bytes, data, packed, flags)| {
            let flags = flags & !(LZ4 | ZSTD);
            let spec =
                EntrySpec { kind, sm, flags, header_bytes, payload: data.clone(), uncompressed_bytes: 0 };
            if packed { spec.compressed(LZ4, data.len(), lz4_flex::block::compress(&data)) } else { spec }
        },
    )
}

fn entries() -> impl Strategy<Value = Vec<EntrySpec>> {
    proptest::collection::vec(entry(), 0..8)
}

proptest! {
    #[test]
    fn a_container_lists_what_was_put_in(specs in entries(), trailing in proptest::collection::vec(any::<u8>(), 0..40)) {
        let image = container(&specs);
        let longer = [&image[..], &trailing].concat();
        prop_assert_eq!(image_length(&*longer), Ok(image.len()));
        let listed: Vec<_> = Container::parse(&longer).unwrap().entries().map(Result::unwrap).collect();
        prop_assert_eq!(listed.len(), specs.len());
        for (entry, spec) in listed.iter().zip(&specs) {
            prop_assert_eq!(entry.bytes(), spec.to_bytes());
            prop_assert_eq!(entry.sm, spec.sm);
            prop_assert_eq!(entry.flags, spec.flags);
            if spec.flags & LZ4 != 0 {
                let contents = entry.contents(1 << 16).unwrap();
                prop_assert_eq!(&lz4_flex::block::compress(&contents), &spec.payload);
            }
        }
        checks::check(&longer);
    }

    #[test]
    fn trimming_keeps_the_entries_it_should_and_no_others(specs in entries(), major in 7_u32..13) {
        let image = container(&specs);
        let keep = |spec: &EntrySpec| spec.kind != 2 || spec.sm < 10 || spec.sm / 10 == major || (major == 11 && spec.sm == 101);
        let kept: Vec<_> = specs.iter().filter(|spec| keep(spec)).cloned().collect();
        let expected = if kept.is_empty() { image.clone() } else { container(&kept) };
        prop_assert_eq!(trim(&image, (major, 0)).unwrap(), expected);
    }

    #[test]
    fn damage_never_panics(
        specs in entries(),
        cut in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let mut image = container(&specs);
        for (at, value) in damage {
            let at = at.index(image.len());
            image[at] = value;
        }
        checks::check(&image);
        image.truncate(cut.index(image.len()));
        checks::check(&image);
    }

    #[test]
    fn damaged_elf_headers_never_panic(
        sections in proptest::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..4),
        segments in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let sections: Vec<_> = sections.into_iter().map(|(kind, at, bytes)| section(kind % 10, at, bytes)).collect();
        let segments: Vec<_> = segments.into_iter().map(|(at, bytes)| segment(at, bytes)).collect();
        let mut image = elf_with(&sections, &segments);
        for (at, value) in damage {
            let at = at.index(image.len());
            image[at] = value;
        }
        checks::check(&image);
    }

    #[test]
    fn random_bytes_never_panic(
        magic in proptest::sample::select(vec![
            &b""[..], b"\x50\xed\x55\xba\x01\x00\x10\x00", b"\xb1\x43\x62\x46", b"\x7fELF\x02\x01", b".ver",
        ]),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        checks::check(&[magic, &bytes].concat());
    }
}
