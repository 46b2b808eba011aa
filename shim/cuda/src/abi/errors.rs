//! `cuGetErrorName` and `cuGetErrorString`.
//!
//! Names are the interface's own. The sentences are the driver's: the server sends them once
//! ([`set_descriptions`]) and until then, or without a server, a few words made from the name serve.
//! Strings that were handed out stay valid for the life of the process, whatever comes later.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char},
    ptr,
    sync::{LazyLock, OnceLock},
};

use super::{
    result::{CUDA_ERROR_INVALID_VALUE, NAMES, SUCCESS},
    types::CUresult,
};

static FROM_SERVER: OnceLock<HashMap<CUresult, CString>> = OnceLock::new();

static FALLBACK: LazyLock<HashMap<CUresult, CString>> = LazyLock::new(|| {
    NAMES
        .iter()
        .filter_map(|&(code, name)| {
            let name = name.to_str().ok()?;
            let words = name.strip_prefix("CUDA_ERROR_").or_else(|| name.strip_prefix("CUDA_"))?;
            Some((code, CString::new(words.to_ascii_lowercase().replace('_', " ")).ok()?))
        })
        .collect()
});

/// Takes the driver's own sentences. The first call counts; a later one changes nothing, because
/// programs keep the pointers. Sentences with a NUL inside are dropped.
pub fn set_descriptions(descriptions: HashMap<CUresult, String>) {
    let owned =
        descriptions.into_iter().filter_map(|(code, text)| Some((code, CString::new(text).ok()?))).collect();
    drop(FROM_SERVER.set(owned));
}

/// The name of a code, as `cuda.h` spells it.
pub fn name(code: CUresult) -> Option<&'static CStr> {
    let index = NAMES.binary_search_by_key(&code, |&(known, _)| known).ok()?;
    NAMES.get(index).map(|&(_, name)| name)
}

/// The sentence for a code.
pub fn description(code: CUresult) -> Option<&'static CStr> {
    FROM_SERVER
        .get()
        .and_then(|known| known.get(&code))
        .or_else(|| FALLBACK.get(&code))
        .map(CString::as_c_str)
}

/// # Safety
/// `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: CUresult, out: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise is the one that is asked for.
    unsafe { answer(name(error), out) }
}

/// # Safety
/// `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: CUresult, out: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise is the one that is asked for.
    unsafe { answer(description(error), out) }
}

/// # Safety
/// `out` is NULL or may be written.
unsafe fn answer(text: Option<&'static CStr>, out: *mut *const c_char) -> CUresult {
    if out.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not NULL, so the caller promises that it may be written.
    unsafe { out.write(text.map_or(ptr::null(), CStr::as_ptr)) };
    if text.is_some() { SUCCESS } else { CUDA_ERROR_INVALID_VALUE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        function: unsafe extern "C" fn(CUresult, *mut *const c_char) -> CUresult,
        code: CUresult,
    ) -> Result<String, CUresult> {
        let mut out = ptr::dangling::<c_char>();
        // SAFETY: `out` is a local.
        let result = unsafe { function(code, &mut out) };
        if result != SUCCESS {
            assert!(out.is_null(), "an unknown code clears the output");
            return Err(result);
        }
        // SAFETY: on success the function gives a NUL-terminated string that lives forever.
        Ok(unsafe { CStr::from_ptr(out) }.to_str().unwrap().to_owned())
    }

    #[test]
    fn names_are_in_order_so_that_they_can_be_searched() {
        assert!(NAMES.is_sorted_by(|left, right| left.0 < right.0));
        assert!(NAMES.iter().all(|(_, name)| name.to_bytes().starts_with(b"CUDA_")));
    }

    #[test]
    fn known_and_unknown_codes() {
        assert_eq!(ask(cuGetErrorName, 0).unwrap(), "CUDA_SUCCESS");
        assert_eq!(ask(cuGetErrorName, 700).unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(ask(cuGetErrorName, 35), Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!(ask(cuGetErrorString, 12_345), Err(CUDA_ERROR_INVALID_VALUE));
    }

    #[test]
    fn the_servers_sentences_replace_our_words_only_where_it_has_any() {
        assert_eq!(ask(cuGetErrorString, 719).unwrap(), "launch failed");
        set_descriptions(HashMap::from([(700, "a sentence".to_owned()), (719, "bro\0ken".to_owned())]));
        assert_eq!(ask(cuGetErrorString, 700).unwrap(), "a sentence");
        assert_eq!(ask(cuGetErrorString, 719).unwrap(), "launch failed");
    }
}
