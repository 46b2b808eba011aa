//! The library as a program finds it: a file with the driver's name, loaded at run time.

use std::path::PathBuf;

use libloading::os::unix::{Library, Symbol};

/// Beside the tests, or one folder up.
fn built() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let mut folders = test.ancestors().skip(1).take(2).map(|folder| folder.join("libsoftgpu.so"));
    folders.find(|path| path.exists())
}

#[test]
fn it_is_loaded_by_path_and_answers_by_name() {
    // SAFETY: loading the library runs no code of its own.
    let library = unsafe { Library::new(built().unwrap()) }.unwrap();
    // SAFETY: the types are those of cuda.h.
    unsafe {
        let init: Symbol<unsafe extern "C" fn(u32) -> u32> = library.get(b"cuInit\0").unwrap();
        let version: Symbol<unsafe extern "C" fn(*mut i32) -> u32> =
            library.get(b"cuDriverGetVersion\0").unwrap();
        let count: Symbol<unsafe extern "C" fn(*mut i32) -> u32> =
            library.get(b"cuDeviceGetCount\0").unwrap();
        let mut value = 0;
        assert_eq!(version(&mut value), 0);
        assert_eq!(value, 13000);
        assert_eq!(count(&mut value), 3, "not before cuInit");
        assert_eq!(init(0), 0);
        assert_eq!(count(&mut value), 0);
        assert_eq!(value, 2);

        type Find = unsafe extern "C" fn(*const i8, *mut usize, i32, u64, *mut u32) -> u32;
        let find: Symbol<Find> = library.get(b"cuGetProcAddress_v2\0").unwrap();
        let alloc: Symbol<unsafe extern "C" fn()> = library.get(b"cuMemAlloc_v2\0").unwrap();
        let (mut address, mut status) = (0, 9);
        assert_eq!(find(c"cuMemAlloc".as_ptr(), &mut address, 12000, 0, &mut status), 0);
        assert_eq!((address, status), (*alloc as usize, 0));
        assert_eq!(find(c"cuMemAlloc_v2".as_ptr(), &mut address, 12000, 0, &mut status), 0);
        assert_eq!((address, status), (0, 1));
        for (version, symbol) in
            [(11030, &b"cuStreamGetCaptureInfo_v2\0"[..]), (13000, b"cuStreamGetCaptureInfo_v3\0")]
        {
            let wanted: Symbol<unsafe extern "C" fn()> = library.get(symbol).unwrap();
            assert_eq!(find(c"cuStreamGetCaptureInfo".as_ptr(), &mut address, version, 0, &mut status), 0);
            assert_eq!((address, status), (*wanted as usize, 0));
        }
        assert_eq!(find(c"cuMemAlloc".as_ptr(), &mut address, 13010, 0, &mut status), 1);
    }
    // Threads of streams may still be there when a library is unloaded; NVIDIA's is never unloaded either.
    std::mem::forget(library);
}

#[test]
fn it_has_the_drivers_name() {
    let bytes = std::fs::read(built().unwrap()).unwrap();
    assert!(bytes.windows(13).any(|window| window == b"libcuda.so.1\0"));
}
