//! Memory that the program maps itself.

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};

pub const TESTS: &[Test] = &[("memory_the_program_maps_itself", memory_the_program_maps_itself)];

fn memory_the_program_maps_itself() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let bytes = client.granularity();
    let [one, two] = [0; 2].map(|_| client.handle());
    for allocation in [one, two] {
        client.ask(VmmCreate { allocation, bytes, device: 0, compression: 0 }).unwrap();
    }
    let address = client.address(4 * bytes);
    client.ask(VmmMap { allocation: one, address, bytes, offset: 0 }).unwrap();
    client.ask(VmmMap { allocation: two, address: address + bytes, bytes, offset: 0 }).unwrap();
    assert_eq!(client.ask(VmmMap { allocation: two, address, bytes, offset: 0 }).err(), Some(1), "taken");
    assert_eq!(
        client.ask(VmmMap { allocation: two, address: address + 2 * bytes, bytes, offset: bytes }).err(),
        Some(1)
    );
    client.ask(VmmSetAccess { address, bytes: 2 * bytes, device: 0, flags: 3 }).unwrap();
    assert_eq!(client.ask(VmmSetAccess { address, bytes: 3 * bytes, device: 0, flags: 3 }).err(), Some(1));
    // A copy across the seam.
    client.copy_in(stream, address + bytes - 40_000, &[8; 80_000]);
    assert_eq!(client.copy_out(stream, address + bytes - 4, 8).unwrap(), [8; 8]);
    client.send(VmmRelease { allocation: one });
    client.ask(VmmUnmap { address, bytes: 2 * bytes }).unwrap();
    assert_eq!(client.copy_out(stream, address, 8).err(), Some(1));
    assert_eq!(client.ask(VmmUnmap { address, bytes }).err(), Some(1));
    // The other allocation lives on, with its contents.
    client.ask(VmmMap { allocation: two, address: address + 3 * bytes, bytes, offset: 0 }).unwrap();
    client.ask(VmmSetAccess { address: address + 3 * bytes, bytes, device: 0, flags: 3 }).unwrap();
    assert_eq!(client.copy_out(stream, address + 3 * bytes, 8).unwrap(), [8; 8]);
}
