//! Which of the palette's inner loops this processor gets.

use fusewire_wire::palette::{Kernel, Portable};

/// The best that there is here.
#[must_use]
pub fn kernel() -> &'static dyn Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;

        use super::avx512::Avx512;
        static AVX512: OnceLock<Option<Avx512>> = OnceLock::new();
        if let Some(avx512) = AVX512.get_or_init(Avx512::detect) {
            return avx512;
        }
    }
    &Portable
}
