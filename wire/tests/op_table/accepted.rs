//! The form that is accepted: an asynchronous operation without, a synchronous one with an output.

fusewire_wire::ops! {
    local { "cuLocal" }
    async 0x0001 Push push ["cuPush"] { stream: using Stream, value: u64 };
    sync 0x0002 Ask ask ["cuAsk"; cache Forever] { event: new Event } -> Answered { value: u64 };
}

fn main() {
    assert_eq!(OPS.len(), 2);
    assert_eq!(OPS[0].kind, fusewire_wire::ops::Kind::Async);
    assert_eq!(LOCAL, ["cuLocal"]);
    let _ = Answered { value: 1 };
}
