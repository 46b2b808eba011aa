//! The CUDA runtime's start-up check.
//!
//! At start-up the runtime asks a private table for a digest, three times with three versions, computes
//! the same itself and refuses to work (error 103) when they differ. The digest covers the process, the
//! calling thread, the addresses of two tables and the devices, so it is made in this process on every
//! call and never kept: after a fork the process id is another.

use hmac::{Hmac, Mac};
use md2::Md2;

use super::hooks::DeviceIdentity;

/// What HMAC is keyed with.
const KEY: [u8; 16] =
    [0x14, 0x6A, 0xDD, 0xAE, 0x53, 0xA9, 0xA7, 0x52, 0xAA, 0x08, 0x41, 0x36, 0x0B, 0xF5, 0x5A, 0x9F];

/// The answers for versions that end in 0 and in 1.
const LAST_DIGIT_0: [u64; 2] = [0x3341_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8];
const LAST_DIGIT_1: [u64; 2] = [0x1841_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8];

/// Everything the digest covers.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What `cuDriverGetVersion` reports.
    pub driver_version: u32,
    pub process: u32,
    /// The low half of `pthread_self()`.
    pub thread: u32,
    /// Address of the CUDART_INTERFACE table.
    pub cudart_table: u64,
    /// Address of the INTEGRITY_CHECK table, and of the function in its slot 1.
    pub integrity_table: u64,
    pub integrity_function: u64,
    /// In the order in which the program sees them.
    pub devices: Vec<DeviceIdentity>,
}

impl Subject {
    /// The sixteen bytes for one question of the runtime.
    pub fn digest(&self, version: u32, unix_seconds: u64) -> [u8; 16] {
        match version % 10 {
            0 => words(LAST_DIGIT_0),
            1 => words(LAST_DIGIT_1),
            _ => hmac_md2(&self.message(version, unix_seconds)),
        }
    }

    fn message(&self, version: u32, unix_seconds: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(48 + 28 * self.devices.len());
        for word in [self.driver_version, version, self.process, self.thread] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.cudart_table, self.integrity_table, self.integrity_function, unix_seconds] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        for device in &self.devices {
            message.extend_from_slice(&device.uuid);
            for number in [device.pci_domain, device.pci_bus, device.pci_device] {
                message.extend_from_slice(&number.to_le_bytes());
            }
        }
        message
    }
}

fn words([low, high]: [u64; 2]) -> [u8; 16] {
    ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
}

/// HMAC over MD2, whose block is 16 bytes: exactly the key's length, so that it is neither padded nor
/// hashed.
fn hmac_md2(message: &[u8]) -> [u8; 16] {
    let mut mac = <Hmac<Md2> as hmac::digest::KeyInit>::new(&KEY.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use hmac::digest::Digest;

    use super::*;

    fn subject() -> Subject {
        Subject {
            driver_version: 13_000,
            process: 77,
            thread: 0xF00D_0740,
            cudart_table: 0x7F00_0000_1000,
            integrity_table: 0x7F00_0000_2000,
            integrity_function: 0x7F00_0000_3000,
            devices: vec![DeviceIdentity { uuid: [9; 16], pci_domain: 0, pci_bus: 0x4E, pci_device: 0 }],
        }
    }

    #[test]
    fn the_two_constants() {
        for version in [12_080, 13_000] {
            let expected = [
                0x5C, 0x67, 0xCB, 0x03, 0x1C, 0x18, 0x41, 0x33, 0xE8, 0xD1, 0x4C, 0x1F, 0xAA, 0x83, 0xD3,
                0x8E,
            ];
            assert_eq!(subject().digest(version, 5), expected);
            let mut other = expected;
            other[7] = 0x18;
            assert_eq!(subject().digest(version + 1, 5), other);
        }
    }

    /// HMAC spelled out (RFC 2104) with the block size that makes the difference.
    #[test]
    fn the_keyed_digest_uses_sixteen_byte_blocks() {
        let message = b"any message, longer than one block of sixteen bytes";
        let inner = Md2::new().chain_update(KEY.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
        let outer = Md2::new().chain_update(KEY.map(|byte| byte ^ 0x5C)).chain_update(inner).finalize();
        assert_eq!(hmac_md2(message).as_slice(), outer.as_slice());
    }

    #[test]
    fn the_message_is_laid_out_without_gaps() {
        let message = subject().message(13_002, 0x0102_0304_0506_0708);
        assert_eq!(message.len(), 16 + 32 + 28);
        assert_eq!(message[..8], [0xC8, 0x32, 0, 0, 0xCA, 0x32, 0, 0]);
        assert_eq!(message[40..48], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(message[48..64], [9; 16]);
        assert_eq!(message[68], 0x4E);
    }

    #[test]
    fn everything_it_covers_changes_it() {
        let plain = subject().digest(13_002, 1);
        let mut changed = vec![subject().digest(13_002, 2), subject().digest(12_082, 1)];
        let mut vary = |change: fn(&mut Subject)| {
            let mut subject = subject();
            change(&mut subject);
            changed.push(subject.digest(13_002, 1));
        };
        vary(|subject| subject.driver_version = 12_080);
        vary(|subject| subject.process += 1);
        vary(|subject| subject.thread += 1);
        vary(|subject| subject.cudart_table += 1);
        vary(|subject| subject.integrity_table += 1);
        vary(|subject| subject.integrity_function += 1);
        vary(|subject| subject.devices[0].pci_bus += 1);
        vary(|subject| subject.devices.clear());
        assert!(changed.iter().all(|digest| *digest != plain));
    }
}
