//! What a load's answer says of the image's kernels, so that the client need not ask for each.
//!
//! A list of [`Known`] kernels, each as a `FunctionInfo`, the length of its name, its parameters' places and
//! its name, padded to 8 bytes. The server keeps the same bytes beside a cached image. The list may leave
//! kernels out: one that is not in it is asked for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::table::{FunctionInfo, ParameterInfo};

/// Kernels that a list may hold.
pub const MAX_KNOWN: usize = 4096;
/// Bytes of a kernel's name at most: what the names of templates come to, with room.
pub const MAX_NAME_BYTES: usize = 64 * 1024;
/// Parameters of a kernel at most.
pub const MAX_KNOWN_PARAMETERS: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    info: FunctionInfo,
    name_bytes: u32,
    reserved: u32,
}

/// A kernel, as the server described it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Without NUL.
    pub name: Vec<u8>,
    /// Its attributes; `parameters` counts the places below.
    pub info: FunctionInfo,
    pub parameters: Vec<ParameterInfo>,
}

impl Known {
    /// Appends the kernel to a list.
    pub fn append(&self, list: &mut Vec<u8>) {
        let parameters = &self.parameters[..self.parameters.len().min(MAX_KNOWN_PARAMETERS)];
        let name = &self.name[..self.name.len().min(MAX_NAME_BYTES)];
        let mut info = self.info;
        info.parameters = u32::try_from(parameters.len()).unwrap_or(0);
        let head = Head { info, name_bytes: u32::try_from(name.len()).unwrap_or(0), reserved: 0 };
        list.extend_from_slice(head.as_bytes());
        list.extend_from_slice(parameters.as_bytes());
        list.extend_from_slice(name);
        list.resize(list.len().next_multiple_of(8), 0);
    }

    /// Reads a list. `None` when it makes no sense.
    pub fn read_list(mut list: &[u8]) -> Option<Vec<Self>> {
        let mut kernels = Vec::new();
        while !list.is_empty() {
            if kernels.len() == MAX_KNOWN {
                return None;
            }
            let (head, rest) = Head::read_from_prefix(list).ok()?;
            let (name_bytes, count) = (head.name_bytes as usize, head.info.parameters as usize);
            if name_bytes > MAX_NAME_BYTES || count > MAX_KNOWN_PARAMETERS {
                return None;
            }
            let (places, rest) = rest.split_at_checked(count * size_of::<ParameterInfo>())?;
            let (name, rest) = rest.split_at_checked(name_bytes.next_multiple_of(8))?;
            let (places, _) = places.as_chunks::<{ size_of::<ParameterInfo>() }>();
            kernels.push(Self {
                name: name.get(..name_bytes)?.to_vec(),
                info: head.info,
                parameters: places
                    .iter()
                    .filter_map(|bytes| ParameterInfo::read_from_bytes(bytes).ok())
                    .collect(),
            });
            list = rest;
        }
        Some(kernels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut list = Vec::new();
        for (name, count) in [("add", 3), ("eightlen", 0), ("", 1)] {
            let parameters = vec![ParameterInfo { offset: 8, bytes: 4 }; count];
            let info = FunctionInfo { max_threads: 1024, ..FunctionInfo::default() };
            Known { name: name.into(), info, parameters }.append(&mut list);
        }
        list
    }

    #[test]
    fn a_list_survives_the_wire() {
        let kernels = Known::read_list(&sample()).unwrap();
        let names: Vec<_> = kernels.iter().map(|known| known.name.as_slice()).collect();
        assert_eq!(names, [&b"add"[..], b"eightlen", b""]);
        assert_eq!(kernels[0].parameters.len(), 3);
        assert_eq!((kernels[0].parameters[2].offset, kernels[0].info.max_threads), (8, 1024));
        assert!(Known::read_list(&[]).unwrap().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let list = sample();
        let whole = [0, 80 + 24 + 8, 80 + 24 + 8 + 80 + 8];
        for cut in (0..list.len()).filter(|cut| !whole.contains(cut)) {
            assert!(Known::read_list(&list[..cut]).is_none(), "{cut} of {} bytes", list.len());
        }
        // Lengths that would overflow, or ask for too much.
        for at in [0, std::mem::offset_of!(Head, name_bytes)] {
            let mut bad = list.clone();
            bad[at..at + 4].fill(0xff);
            assert!(Known::read_list(&bad).is_none());
        }
    }
}
