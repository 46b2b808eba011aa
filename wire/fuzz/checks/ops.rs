//! What must hold for any bytes that arrive as a record: a code in two bytes, then the body.

use fusewire_wire::ops::events::Event;
use fusewire_wire::ops::known::Known;
use fusewire_wire::ops::snapshot::Snapshot;
use fusewire_wire::ops::table::{RefuseAll, dispatch};
use fusewire_wire::ops::{Call, DispatchError, info};

pub(crate) fn check(data: &[u8]) {
    let Some((code, body)) = data.split_first_chunk::<2>() else { return };
    let code = u16::from_le_bytes(*code);
    let outcome = dispatch(&mut RefuseAll, code, Call { number: 1, flags: 0 }, body);
    match info(code) {
        None => assert_eq!(outcome, Err(DispatchError::UnknownOp { number: 1, code })),
        Some(op) if body.len() < op.fixed_bytes => {
            assert!(matches!(outcome, Err(DispatchError::Truncated { .. })), "{}", op.name);
        }
        Some(op) => assert_eq!(outcome, Ok(()), "{}", op.name),
    }
    if let Some(event) = Event::decode(code, body) {
        // Whatever was decoded can be shown.
        assert!(!format!("{event:?}").is_empty());
    }
    if let Some(snapshot) = Snapshot::decode(body) {
        assert!(Snapshot::decode(&snapshot.encode()).is_some());
    }
    if let Some(kernels) = Known::read_list(body) {
        let mut list = Vec::new();
        kernels.iter().for_each(|known| known.append(&mut list));
        assert_eq!(Known::read_list(&list).map(|again| again.len()), Some(kernels.len()));
    }
    // Any answer is right but a panic.
    let _ = fusewire_wire::inventory::parse(body);
}
