//! The fat binary reader on images built here and on images made by NVIDIA's tools.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod fatbin_images;

use std::borrow::Cow;

use fatbin_images::*;
use fusewire_wire::fatbin::*;

fn kinds_and_sms(image: &[u8]) -> Vec<(EntryKind, u32)> {
    Container::parse(image)
        .unwrap()
        .entries()
        .map(|entry| entry.map(|entry| (entry.kind, entry.sm)))
        .collect::<Result<_, _>>()
        .unwrap()
}

fn seed(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/fuzz/seeds/fatbin/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

mod kinds {
    use super::*;

    #[test]
    fn each_image_is_known_by_its_first_bytes() {
        assert_eq!(image_kind(&wrapper(1, 8, 0)), Ok(ImageKind::Wrapper));
        assert_eq!(image_kind(&container(&[])), Ok(ImageKind::Container));
        assert_eq!(image_kind(&elf(4)), Ok(ImageKind::Elf));
        assert_eq!(image_kind(b"//\n.version 8.0\n\0"), Ok(ImageKind::Ptx));
        assert_eq!(image_kind(b"\n\n\t.version 8.0\0"), Ok(ImageKind::Ptx));
        assert_eq!(image_kind("/é comment\0".as_bytes()), Ok(ImageKind::Ptx));
        assert_eq!(image_kind(b"x\0\x01\x02"), Ok(ImageKind::Ptx));
        assert_eq!(image_kind(&[0xed, 0x43, 0x4e, 0x7f, 1]), Ok(ImageKind::LtoIr));
        assert_eq!(image_kind(b"!<arch>\n"), Ok(ImageKind::Archive));
    }

    #[test]
    fn other_bytes_are_named_in_the_error() {
        let error = image_kind(&[0xde, 0xad, 0xbe, 0xef, 9]).unwrap_err();
        assert_eq!(error, FatbinError::UnknownImage { first: [0xde, 0xad, 0xbe, 0xef] });
        assert_eq!(error.to_string(), "not a CUDA image: it begins with [de, ad, be, ef]");
        assert!(image_kind(b"").is_err());
        assert!(image_kind(b"\0").is_err());
        assert!(image_kind(b"\xef\xbb\xbf.version 8.0\0").is_err());
        assert!(image_kind(b"ab\x01").is_err());
    }
}

mod lengths {
    use super::*;

    #[test]
    fn bytes_after_the_image_do_not_count() {
        let images = [
            wrapper(1, 8, 0),
            container(&[]),
            container(&[elf_entry(90), ptx_entry(80, ".version 8.0")]),
            elf(33),
            b".version 8.0\n\0".to_vec(),
        ];
        for image in images {
            assert_eq!(image_length(&*image), Ok(image.len()));
            assert_eq!(image_length(&*[&image[..], b"\xffrest\0"].concat()), Ok(image.len()));
        }
    }

    #[test]
    fn a_container_is_measured_from_its_header_alone() {
        let image = container(&[elf_entry(90)]);
        assert_eq!(image_length(&image[..16]), Ok(image.len()));
        assert_eq!(
            image_length(&image[..15]),
            Err(FatbinError::Unreadable { what: "container header", offset: 0, needed: 16 })
        );
    }

    #[test]
    fn an_elf_ends_where_the_last_of_its_parts_ends() {
        // Section, segment, section table, segment table: each in turn is the last.
        let tables = (ELF_HEADER + 2 * SECTION_ROW + SEGMENT_ROW) as u64;
        let section_last = elf_with(&[section(0, 0, 0), section(1, 1000, 7)], &[segment(64, 9)]);
        assert_eq!(image_length(&*section_last), Ok(1007));
        let segment_last = elf_with(&[section(0, 0, 0), section(1, 1000, 7)], &[segment(900, 200)]);
        assert_eq!(image_length(&*segment_last), Ok(1100));
        let segment_table_last = elf_with(&[section(0, 0, 0), section(1, 64, 7)], &[segment(64, 9)]);
        assert_eq!(image_length(&*segment_table_last), Ok(tables as usize));
        let section_table_last = elf_with(&[section(0, 0, 0), section(1, 64, 1)], &[]);
        assert_eq!(image_length(&*section_table_last), Ok(ELF_HEADER + 2 * SECTION_ROW));
        assert_eq!(image_length(&*elf_header()), Ok(ELF_HEADER));
    }

    #[test]
    fn sections_without_bytes_in_the_file_do_not_count() {
        let no_bits = elf_with(&[section(0, 0, 0), section(8, 200, 1 << 40), section(1, 300, 0)], &[]);
        assert_eq!(image_length(&*no_bits), Ok(ELF_HEADER + 3 * SECTION_ROW));
    }

    #[test]
    fn an_elf_with_more_sections_than_its_header_can_say() {
        let mut rows = vec![section(0, 0, 0); 3];
        rows[2] = section(1, 5000, 1);
        put(&mut rows[0], 32, &3_u64.to_le_bytes());
        let mut image = elf_with(&rows, &[]);
        put(&mut image, 60, &0_u16.to_le_bytes());
        assert_eq!(image_length(&*image), Ok(5001));
    }

    #[test]
    fn a_section_table_that_is_said_to_be_empty_still_has_its_first_row() {
        let mut image = elf_with(&[section(0, 0, 0)], &[]);
        put(&mut image, 60, &0_u16.to_le_bytes());
        assert_eq!(image_length(&LastPage(&image)), Ok(ELF_HEADER + SECTION_ROW));
    }

    #[test]
    fn an_elf_with_more_segments_than_its_header_can_say() {
        let mut first = section(0, 0, 0);
        put(&mut first, 44, &2_u32.to_le_bytes());
        let mut image = elf_with(&[first], &[segment(64, 1), segment(7000, 1)]);
        put(&mut image, 56, &0xffff_u16.to_le_bytes());
        assert_eq!(image_length(&*image), Ok(7001));
    }

    #[test]
    fn absurd_elf_numbers_are_errors() {
        let wraps = elf_with(&[section(0, 0, 0), section(1, u64::MAX, 2)], &[]);
        assert!(matches!(
            image_length(&*wraps),
            Err(FatbinError::BadField { what: "ELF section", found: u64::MAX, .. })
        ));
        let huge = elf_with(&[section(0, 0, 0), section(1, 1 << 40, 2)], &[]);
        assert!(matches!(image_length(&*huge), Err(FatbinError::TooLarge { what: "ELF image", .. })));
        let mut small_rows = elf(1);
        put(&mut small_rows, 58, &63_u16.to_le_bytes());
        assert!(matches!(
            image_length(&*small_rows),
            Err(FatbinError::BadField { offset: 58, found: 63, .. })
        ));
        let mut many_rows = elf_with(&[section(0, 0, 1 << 60)], &[]);
        put(&mut many_rows, 60, &0_u16.to_le_bytes());
        put(&mut many_rows, 64 + 32, &(1_u64 << 60).to_le_bytes());
        assert!(matches!(
            image_length(&*many_rows),
            Err(FatbinError::TooLarge { what: "ELF section table", .. })
        ));
        let mut elf32 = elf(1);
        elf32[4] = 1;
        let error = image_length(&*elf32).unwrap_err();
        assert_eq!(error.to_string(), "ELF class at offset 0x4 is 0x1, expected 2 (64-bit)");
    }

    #[test]
    fn container_headers_that_cannot_be() {
        let good = container(&[]);
        for (at, value) in [(4, 2), (6, 15)] {
            let mut bad = good.clone();
            bad[at] = value;
            let error = image_length(&*bad).unwrap_err();
            assert!(
                matches!(error, FatbinError::BadField { offset, found, .. } if offset == at && found == value.into()),
                "{error}"
            );
        }
        let mut endless = good.clone();
        put(&mut endless, 8, &u64::MAX.to_le_bytes());
        assert!(matches!(image_length(&*endless), Err(FatbinError::BadField { offset: 8, .. })));
        let mut large = good;
        put(&mut large, 8, &(MAX_IMAGE_BYTES - 15).to_le_bytes());
        assert!(matches!(image_length(&*large), Err(FatbinError::TooLarge { .. })));
    }

    #[test]
    fn text_without_an_end_and_images_without_a_length() {
        assert!(matches!(image_length(&b".version 8.0"[..]), Err(FatbinError::Unterminated { .. })));
        assert_eq!(image_length(&b"!<arch>\n"[..]), Err(FatbinError::NoLength { kind: ImageKind::Archive }));
        assert_eq!(
            image_length(&b""[..]),
            Err(FatbinError::Unreadable { what: "image", offset: 0, needed: 1 })
        );
    }

    /// Memory that ends with the image: a look beyond is a crash in a real program.
    struct LastPage<'a>(&'a [u8]);

    impl ByteSource for LastPage<'_> {
        fn read(&self, offset: usize, out: &mut [u8]) -> bool {
            out.copy_from_slice(&self.0[offset..offset + out.len()]);
            true
        }
    }

    #[test]
    fn nothing_beyond_the_image_is_looked_at() {
        for image in [&b"x\0"[..], b"xy\0", b".version 8.0\n\0", &elf(5), &container(&[elf_entry(90)])] {
            assert_eq!(image_length(&LastPage(image)), Ok(image.len()));
        }
    }

    #[test]
    fn what_nvidias_tools_make_is_measured_exactly() {
        for name in ["add.sm_80.cubin", "add.sm_100f.cubin", "add.ptx", "add.plain.fatbin", "add.zstd.fatbin"]
        {
            let image = seed(name);
            assert_eq!(image_length(&*image), Ok(image.len()), "{name}");
            assert_eq!(image_length(&*[&image[..], &[0x7f; 100]].concat()), Ok(image.len()), "{name}");
        }
    }
}

mod wrappers {
    use super::*;

    #[test]
    fn all_versions_are_read_and_written() {
        for version in [0, 1, 2, 3] {
            let bytes = wrapper(version, 0x7000_0000_1000, 0x42);
            let read = Wrapper::read(&*bytes).unwrap();
            assert_eq!(read, Wrapper { version, data: 0x7000_0000_1000, extra: 0x42 });
            assert_eq!(read.to_bytes(), *bytes);
        }
    }

    #[test]
    fn bad_wrappers_are_refused() {
        let field = |bytes: Vec<u8>| match Wrapper::read(&*bytes) {
            Err(FatbinError::BadField { offset, .. }) => offset,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(vec![1; 24]), 0);
        assert_eq!(field(wrapper(1, 0, 0)), 8);
        assert!(matches!(Wrapper::read(&wrapper(1, 8, 0)[..23]), Err(FatbinError::Unreadable { .. })));
    }

    #[test]
    fn the_list_of_prelinked_containers_ends_at_zero() {
        let list: Vec<u8> = [16_u64, 32, 0, 48].iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
        assert_eq!(prelinked_pointers(&*list), Ok(vec![16, 32]));
        assert!(matches!(
            prelinked_pointers(&list[..16]),
            Err(FatbinError::Unreadable { offset: 16, needed: 8, .. })
        ));
        let endless = vec![1; (MAX_PRELINKED + 2) * 8];
        assert!(matches!(prelinked_pointers(&*endless), Err(FatbinError::TooLarge { .. })));
    }
}

mod entries {
    use super::*;

    #[test]
    fn headers_of_any_size_lead_to_their_payload() {
        let specs: Vec<_> = [64, 72, 80, 112, 120, 4096]
            .into_iter()
            .map(|header_bytes| EntrySpec { header_bytes, ..ptx_entry(header_bytes as u32, "text") })
            .collect();
        let image = container(&specs);
        let mut offset = 16;
        for (entry, spec) in Container::parse(&image).unwrap().entries().zip(&specs) {
            let entry = entry.unwrap();
            assert_eq!(entry.offset, offset);
            assert_eq!(entry.payload_offset(), offset + spec.header_bytes);
            assert_eq!(entry.sm, spec.header_bytes as u32);
            assert_eq!(entry.payload, b"text\0\0\0\0");
            offset += spec.header_bytes + 8;
        }
        assert_eq!(offset, image.len());
    }

    #[test]
    fn a_longer_container_header_is_skipped() {
        let mut image = container(&[elf_entry(90)]);
        image.splice(16..16, [0xee; 8]);
        image[6] = 24;
        assert_eq!(kinds_and_sms(&image), [(EntryKind::Elf, 90)]);
        let two = container(&[elf_entry(90), elf_entry(80)]);
        let mut two = [&two[..16], &[0xee; 8], &two[16..]].concat();
        two[6] = 24;
        let trimmed = trim(&two, (9, 0)).unwrap();
        assert_eq!(trimmed, image);
    }

    #[test]
    fn sizes_that_lie_stop_the_iteration_with_an_error() {
        let good = container(&[elf_entry(80), elf_entry(90)]);
        let second = 16 + elf_entry(80).to_bytes().len();
        let change = |at: usize, value: &[u8]| {
            let mut image = good.clone();
            put(&mut image, second + at, value);
            let mut entries = Container::parse(&image).unwrap().entries();
            assert!(entries.next().unwrap().is_ok());
            let error = entries.next().unwrap().unwrap_err();
            assert!(entries.next().is_none());
            assert_eq!(trim(&image, (9, 0)), Err(error.clone()));
            error
        };
        assert!(matches!(
            change(8, &u32::MAX.to_le_bytes()),
            FatbinError::Truncated { what: "entry", offset, .. } if offset == second
        ));
        assert!(matches!(change(8, &u64::MAX.to_le_bytes()), FatbinError::Truncated { .. }));
        assert!(matches!(change(4, &u32::MAX.to_le_bytes()), FatbinError::Truncated { .. }));
        assert!(matches!(
            change(4, &63_u32.to_le_bytes()),
            FatbinError::BadField { offset, found: 63, .. } if offset == second + 4
        ));
    }

    #[test]
    fn a_container_cut_short_is_refused() {
        let image = container(&[elf_entry(90)]);
        for length in 0..image.len() {
            assert!(matches!(Container::parse(&image[..length]), Err(FatbinError::Truncated { .. })));
        }
    }

    #[test]
    fn variants_are_told_apart() {
        let image = seed("add.zstd.fatbin");
        let variants: Vec<_> = Container::parse(&image)
            .unwrap()
            .entries()
            .map(|entry| entry.map(|entry| (entry.sm, entry.arch_variant())).unwrap())
            .collect();
        assert_eq!(
            variants,
            [
                (80, ArchVariant::Generic),
                (90, ArchVariant::Generic),
                (80, ArchVariant::Generic),
                (90, ArchVariant::ArchSpecific),
                (100, ArchVariant::FamilySpecific),
            ]
        );
    }
}

mod contents {
    use super::*;

    fn only(image: &[u8]) -> Entry<'_> {
        Container::parse(image).unwrap().entries().next().unwrap().unwrap()
    }

    #[test]
    fn real_compressed_entries_hold_the_files_they_were_made_from() {
        let sources = [seed("add.sm_80.cubin"), seed("add.sm_90.cubin")];
        for (name, compression) in [
            ("add.plain.fatbin", Compression::None),
            ("add.zstd.fatbin", Compression::Zstd),
            ("add.lz4.fatbin", Compression::Lz4),
        ] {
            let image = seed(name);
            let entries: Vec<_> = Container::parse(&image).unwrap().entries().map(Result::unwrap).collect();
            for (entry, source) in entries.iter().zip(&sources) {
                assert_eq!(entry.compression(), Ok(compression), "{name}");
                assert_eq!(*entry.contents(1 << 20).unwrap(), **source, "{name}");
            }
            let ptx = entries[2].contents(1 << 20).unwrap();
            assert!(ptx.windows(8).any(|window| window == b".version"), "{name}");
        }
    }

    #[test]
    fn plain_contents_are_not_copied() {
        let image = container(&[ptx_entry(80, "1234567")]);
        assert!(matches!(only(&image).contents(0), Ok(Cow::Borrowed(b"1234567\0"))));
    }

    #[test]
    fn a_size_above_the_cap_is_not_believed() {
        let packed = lz4_flex::block::compress(&[7; 1000]);
        let image = container(&[elf_entry(90).compressed(LZ4, 1000, packed.clone())]);
        assert_eq!(*only(&image).contents(1000).unwrap(), [7; 1000]);
        assert_eq!(
            only(&image).contents(999),
            Err(FatbinError::TooLarge { what: "uncompressed size", offset: 16 + 56, size: 1000, limit: 999 })
        );
        let bomb = EntrySpec { uncompressed_bytes: u64::MAX, ..elf_entry(90).compressed(LZ4, 0, packed) };
        let image = container(&[EntrySpec { uncompressed_bytes: u64::MAX, ..bomb }]);
        assert!(matches!(only(&image).contents(usize::MAX - 1), Err(FatbinError::TooLarge { .. })));
    }

    #[test]
    fn sizes_that_contradict_the_data_are_errors() {
        let packed = lz4_flex::block::compress(&[7; 1000]);
        for wrong in [999, 1001] {
            let image = container(&[elf_entry(90).compressed(LZ4, wrong, packed.clone())]);
            let error = only(&image).contents(1 << 20).unwrap_err();
            assert!(matches!(error, FatbinError::Decompress { codec: "LZ4", offset: 80, .. }), "{error}");
        }
        let mut image = container(&[elf_entry(90).compressed(LZ4, 1000, packed)]);
        put(&mut image, 16 + 16, &u32::MAX.to_le_bytes());
        assert!(matches!(
            only(&image).contents(1 << 20),
            Err(FatbinError::Truncated { what: "compressed payload", .. })
        ));
    }

    #[test]
    fn damaged_data_and_two_compressions_at_once_are_errors() {
        let image = container(&[elf_entry(90).compressed(ZSTD, 100, vec![0x55; 64])]);
        assert!(matches!(
            only(&image).contents(1 << 20),
            Err(FatbinError::Decompress { codec: "Zstandard", .. })
        ));
        let image = container(&[elf_entry(90).compressed(ZSTD | LZ4, 100, vec![0x55; 64])]);
        assert!(matches!(only(&image).contents(1 << 20), Err(FatbinError::BadField { .. })));
    }
}

mod trimming {
    use super::*;

    #[test]
    fn only_machine_code_of_other_majors_goes() {
        let unknown = EntrySpec { kind: 0x40, ..elf_entry(75) };
        let variant = EntrySpec { flags: 0x11 | ARCH_SPECIFIC, ..elf_entry(90) };
        let image = container(&[
            elf_entry(75),
            ptx_entry(75, "old"),
            unknown,
            elf_entry(90),
            variant,
            elf_entry(100),
            elf_entry(120),
            ptx_entry(120, "new"),
        ]);
        let nine = trim(&image, (9, 0)).unwrap();
        assert_eq!(
            kinds_and_sms(&nine),
            [
                (EntryKind::Ptx, 75),
                (EntryKind::Other(0x40), 75),
                (EntryKind::Elf, 90),
                (EntryKind::Elf, 90),
                (EntryKind::Ptx, 120),
            ]
        );
        assert_eq!(image_length(&*nine), Ok(nine.len()));
        let twelve = trim(&image, (12, 1)).unwrap();
        assert!(kinds_and_sms(&twelve).contains(&(EntryKind::Elf, 120)));
        assert!(!kinds_and_sms(&twelve).contains(&(EntryKind::Elf, 90)));
    }

    #[test]
    fn other_minors_of_the_same_major_stay() {
        let image = container(&[elf_entry(80), elf_entry(86), elf_entry(89), elf_entry(90)]);
        let trimmed = trim(&image, (8, 0)).unwrap();
        assert_eq!(
            kinds_and_sms(&trimmed),
            [(EntryKind::Elf, 80), (EntryKind::Elf, 86), (EntryKind::Elf, 89)]
        );
    }

    #[test]
    fn entries_stay_byte_for_byte() {
        let kept = EntrySpec { header_bytes: 112, ..elf_entry(90) };
        let image = container(&[elf_entry(80), kept.clone(), elf_entry(100)]);
        assert_eq!(trim(&image, (9, 0)).unwrap(), container(&[kept]));
    }

    #[test]
    fn if_nothing_would_be_left_all_stays() {
        let image = container(&[elf_entry(80), elf_entry(86)]);
        let trimmed = trim(&image, (9, 0)).unwrap();
        assert!(matches!(trimmed, Cow::Borrowed(whole) if whole == image));
    }

    #[test]
    fn an_unchanged_container_is_borrowed_without_what_follows_it() {
        let image = container(&[elf_entry(90), ptx_entry(80, "x")]);
        let longer = [&image[..], &[0xaa; 9]].concat();
        assert!(matches!(trim(&longer, (9, 0)), Ok(Cow::Borrowed(whole)) if whole == image));
    }

    #[test]
    fn code_without_an_architecture_stays() {
        let image = container(&[elf_entry(0), elf_entry(90)]);
        assert_eq!(trim(&image, (9, 0)).unwrap().len(), image.len());
    }

    #[test]
    fn the_gpu_with_two_names_keeps_code_under_both() {
        let image = container(&[elf_entry(90), elf_entry(100), elf_entry(101), elf_entry(110)]);
        let sms =
            |target| kinds_and_sms(&trim(&image, target).unwrap()).into_iter().map(|entry| entry.1).collect();
        let all: [((u32, u32), Vec<u32>); 3] =
            [((11, 0), vec![101, 110]), ((10, 1), vec![100, 101, 110]), ((10, 0), vec![100, 101])];
        for (target, expected) in all {
            let kept: Vec<u32> = sms(target);
            assert_eq!(kept, expected, "{target:?}");
        }
    }

    #[test]
    fn only_containers_can_be_trimmed() {
        assert!(matches!(trim(&elf(4), (9, 0)), Err(FatbinError::BadField { offset: 0, .. })));
        assert!(matches!(trim(b".version", (9, 0)), Err(FatbinError::Truncated { .. })));
    }

    #[test]
    fn a_container_made_by_nvidias_tool() {
        let image = seed("add.zstd.fatbin");
        let trimmed = trim(&image, (9, 0)).unwrap();
        assert_eq!(
            kinds_and_sms(&trimmed),
            [(EntryKind::Elf, 90), (EntryKind::Ptx, 80), (EntryKind::Elf, 90)]
        );
    }
}

mod printing {
    use super::*;

    #[test]
    fn kernels_that_print_are_found_however_they_are_packed() {
        for name in ["print.sm_90.cubin", "print.ptx", "print.zstd.fatbin"] {
            assert!(uses_printf(&seed(name)), "{name}");
        }
    }

    #[test]
    fn kernels_that_do_not_are_cleared() {
        // A failed assertion ends its context: what it writes is collected with the fault.
        let asserting = ["assert.sm_90.cubin", "assert.ptx", "assert.lz4.fatbin"];
        let adding = ["add.sm_90.cubin", "add.ptx", "add.plain.fatbin", "add.zstd.fatbin", "add.lz4.fatbin"];
        for name in asserting.into_iter().chain(adding) {
            assert!(!uses_printf(&seed(name)), "{name}");
        }
    }

    #[test]
    fn unsure_means_yes() {
        assert!(uses_printf(b""));
        assert!(uses_printf(&wrapper(1, 8, 0)));
        assert!(uses_printf(&container(&[elf_entry(90)])[..100]), "cut short");
        assert!(uses_printf(&container(&[EntrySpec { kind: 8, ..elf_entry(90) }])), "unknown kind");
        assert!(uses_printf(&container(&[elf_entry(90).compressed(ZSTD, 9, vec![1; 8])])), "damaged");
        assert!(
            uses_printf(&container(&[elf_entry(90).compressed(LZ4, usize::MAX, vec![1; 8])])),
            "too large"
        );
        assert!(!uses_printf(&container(&[elf_entry(90)])));
    }
}
