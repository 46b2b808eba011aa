//! Device `printf`: the format string, and the arguments as the device packed
//! them, to text. Each conversion is handed to C's own `snprintf`, so that it
//! prints as every C programmer expects.

use super::Fault;
use super::memory::{GlobalMemory, Spaces, load};
use crate::types::Ty;
use std::ffi::CString;

/// The widest field or precision taken; a kernel cannot ask for gigabytes.
const MAX_FIELD: u64 = 4096;

/// The text, and how many arguments were printed.
pub(super) fn format(
    global: &mut GlobalMemory<'_>,
    s: &Spaces<'_>,
    format: &[u8],
    args: u64,
) -> Result<(String, u64), Fault> {
    let mut out = Vec::with_capacity(format.len() + 16);
    let mut at = args;
    let mut count = 0;
    let mut i = 0;
    let mut next = |global: &mut GlobalMemory<'_>, wide: bool| -> Result<u64, Fault> {
        let n: u64 = if wide { 8 } else { 4 };
        at = at.wrapping_add(n - 1) & !(n - 1);
        let p = global.generic(s, at, n as usize, false)?;
        at = at.wrapping_add(n);
        // SAFETY: `p` was resolved for `n` aligned readable bytes.
        Ok(unsafe { load(p, if wide { Ty::U64 } else { Ty::S32 }) })
    };
    while i < format.len() {
        let c = format[i];
        i += 1;
        if c != b'%' {
            out.push(c);
            continue;
        }
        let start = i - 1;
        let mut spec = String::from("%");
        while let Some(c @ (b'-' | b'+' | b' ' | b'#' | b'0')) = format.get(i).copied() {
            spec.push(char::from(c));
            i += 1;
        }
        for part in 0..2 {
            if part == 1 {
                if format.get(i) != Some(&b'.') {
                    break;
                }
                spec.push('.');
                i += 1;
            }
            if format.get(i) == Some(&b'*') {
                i += 1;
                let v = next(global, false)? as i64;
                spec.push_str(&v.clamp(-(MAX_FIELD as i64), MAX_FIELD as i64).to_string());
                continue;
            }
            let mut n = 0u64;
            let mut any = false;
            while let Some(d) = format.get(i).filter(|d| d.is_ascii_digit()) {
                n = (n * 10 + u64::from(d - b'0')).min(MAX_FIELD);
                any = true;
                i += 1;
            }
            if any {
                spec.push_str(&n.to_string());
            }
        }
        let mut wide = false;
        let mut narrow = 0;
        while let Some(c @ (b'l' | b'h' | b'j' | b'z' | b't' | b'L')) = format.get(i).copied() {
            wide |= c != b'h';
            narrow += u32::from(c == b'h');
            i += 1;
        }
        let conversion = format.get(i).copied().unwrap_or(0);
        i += 1;
        match conversion {
            b'%' => {
                out.push(b'%');
                continue;
            }
            b'd' | b'i' => {
                let v = next(global, wide)? as i64;
                let v = match narrow {
                    0 => v,
                    1 => i64::from(v as i16),
                    _ => i64::from(v as i8),
                };
                print(&mut out, &format!("{spec}lld"), Value::Int(v));
            }
            b'u' | b'o' | b'x' | b'X' => {
                let v = next(global, wide)?;
                let v = match (wide, narrow) {
                    (true, _) => v,
                    (false, 0) => v & 0xffff_ffff,
                    (false, 1) => v & 0xffff,
                    (false, _) => v & 0xff,
                };
                let spec = format!("{spec}ll{}", char::from(conversion));
                print(&mut out, &spec, Value::Int(v as i64));
            }
            b'c' => {
                let v = next(global, false)?;
                // `%c` of NUL would end the C string; print it as it is.
                if v as u8 == 0 {
                    out.push(0);
                } else {
                    print(&mut out, &format!("{spec}c"), Value::Int(i64::from(v as u8)));
                }
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let v = f64::from_bits(next(global, true)?);
                let spec = format!("{spec}{}", char::from(conversion));
                print(&mut out, &spec, Value::Float(v));
            }
            b'p' => {
                let v = next(global, true)?;
                print(&mut out, &format!("{spec}p"), Value::Int(v as i64));
            }
            b's' => {
                let addr = next(global, true)?;
                let text = if addr == 0 { b"(null)".to_vec() } else { global.string(s, addr, 1 << 16)? };
                let text = CString::new(text).unwrap_or_default();
                print(&mut out, &format!("{spec}s"), Value::Str(text));
            }
            _ => {
                // Not a conversion: printed as it stands.
                out.extend_from_slice(&format[start..i.min(format.len())]);
                continue;
            }
        }
        count += 1;
    }
    Ok((String::from_utf8_lossy(&out).into_owned(), count))
}

enum Value {
    Int(i64),
    Float(f64),
    Str(CString),
}

/// One conversion through `snprintf`. `spec` is built above from parts known
/// to be harmless: flags, bounded numbers, and a conversion that fits `v`.
fn print(out: &mut Vec<u8>, spec: &str, v: Value) {
    let Ok(spec) = CString::new(spec) else { return };
    let mut buf = vec![0u8; 512];
    loop {
        let (p, n) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: the buffer has `n` bytes, the format is a C string with one
        // conversion, and the value passed is of that conversion's type.
        let need = unsafe {
            match &v {
                Value::Int(x) => libc::snprintf(p, n, spec.as_ptr(), *x),
                Value::Float(x) => libc::snprintf(p, n, spec.as_ptr(), *x),
                Value::Str(x) => libc::snprintf(p, n, spec.as_ptr(), x.as_ptr()),
            }
        };
        let Ok(need) = usize::try_from(need) else { return };
        if need < n {
            out.extend_from_slice(&buf[..need]);
            return;
        }
        buf.resize(need + 1, 0);
    }
}
