//! Nobody would be there to take the output.

fusewire_wire::ops! {
    local {}
    async 0x0001 Push push ["cuPush"] { value: u64 } -> Pushed { value: u64 };
}

fn main() {}
