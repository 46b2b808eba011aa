//! What device code prints.

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::events::event;

pub const TESTS: &[Test] =
    &[("what_a_kernel_prints_comes_before_the_answer", what_a_kernel_prints_comes_before_the_answer)];

const PRINT: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 text[17] = {104, 101, 108, 108, 111, 32, 102, 114, 111, 109, 32, 97, 102, 97, 114, 10, 0};
.visible .entry print()
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<2>;
    mov.u64 %rd1, text;
    cvta.global.u64 %rd2, %rd1;
    {
        .param .b64 format;
        .param .b64 arguments;
        .param .b32 result;
        st.param.b64 [format], %rd2;
        st.param.b64 [arguments], 0;
        call.uni (result), vprintf, (format, arguments);
        ld.param.b32 %r1, [result];
    }
    ret;
}
";

fn what_a_kernel_prints_comes_before_the_answer() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let module = client.module(context, PRINT.as_bytes());
    let (print, _) = client.function(module, "print");
    for round in 1..=3 {
        client.launch(print, stream, 2, &[]);
        client.synchronize(stream).unwrap();
        assert_eq!(client.printed, "hello from afar\n".repeat(2 * round));
    }
    let point = event(&mut client, context, 2);
    client.launch(print, stream, 1, &[]);
    let recorded = client.send(EventRecord { event: point, stream, flags: 0, silent: 0 });
    assert_eq!(client.point(recorded), 0);
    assert_eq!(client.printed.lines().count(), 7);
    client.launch(print, stream, 1, &[]);
    client.ask(CtxSynchronize { context }).unwrap();
    assert_eq!(client.printed.lines().count(), 8);
}
