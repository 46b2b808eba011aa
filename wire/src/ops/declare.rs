//! The macros behind the op table. Nothing here knows any particular operation.

/// Declares operations. See `table.rs` for the form.
///
/// An `async` operation with a reply does not match any rule but the one that refuses it, so it
/// does not compile.
#[macro_export]
macro_rules! ops {
    (
        local { $($local:literal),* $(,)? }
        $(
            $(#[$meta:meta])*
            $kind:ident $code:literal $name:ident $method:ident [$($function:literal),* $(; cache $cache:ident)?]
            { $( $field:ident : $($ty:ident)+ ),* $(,)? }
            $( -> $reply:ident { $( $rfield:ident : $rty:ident ),* $(,)? } )? ;
        )*
    ) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout)]
            #[repr(C)]
            pub struct $name { $( pub $field: $crate::ops!(@type $($ty)+) ),* }

            impl $crate::ops::Record for $name {
                const CODE: u16 = $code;
                const KIND: $crate::ops::Kind = $crate::ops!(@kind $kind);
                const NAME: &'static str = stringify!($name);
            }

            $crate::ops!(@reply $kind $name $( $reply { $( $rfield : $rty ),* } )?);
        )*

        /// Every operation, by ascending code.
        pub static OPS: &[$crate::ops::OpInfo] = &[
            $( $crate::ops::OpInfo {
                code: $code,
                name: stringify!($name),
                kind: $crate::ops!(@kind $kind),
                functions: &[$($function),*],
                handles: $crate::ops!(@handles [] $( $field : $($ty)+ , )*),
                cache: $crate::ops!(@cache $($cache)?),
                fixed_bytes: ::core::mem::size_of::<$name>(),
            } ),*
        ];

        /// Driver functions that are answered in the client and send nothing.
        pub static LOCAL: &[&str] = &[$($local),*];

        /// The server's side of the table: one method an operation.
        pub trait Handler: $crate::ops::Replies {
            $( $crate::ops!(@method $kind $name $method $($reply)?); )*
        }

        /// A handler that refuses everything: what decoding is tried with.
        #[derive(Debug, Default)]
        pub struct RefuseAll;

        impl $crate::ops::Replies for RefuseAll {
            fn reply(&mut self, _: u64, _: $crate::ops::Status, _: &[u8], _: &[u8]) {}
            fn failed(&mut self, _: u64, _: $crate::ops::Status) {}
        }

        impl Handler for RefuseAll {
            $( $crate::ops!(@refuse $kind $name $method); )*
        }

        /// Decodes one record and calls the handler's method for it.
        ///
        /// # Errors
        /// When the code is unknown or the record is shorter than its fixed part: the peer
        /// misbehaved, and the session should end.
        pub fn dispatch<H: Handler + ?Sized>(
            handler: &mut H, code: u16, call: $crate::ops::Call, body: &[u8],
        ) -> Result<(), $crate::ops::DispatchError> {
            match code {
                $( $code => {
                    let Ok((record, tail)) = <$name as ::zerocopy::FromBytes>::read_from_prefix(body) else {
                        return Err($crate::ops::DispatchError::Truncated {
                            number: call.number, name: stringify!($name),
                            have: body.len(), need: ::core::mem::size_of::<$name>(),
                        });
                    };
                    $crate::ops!(@dispatch $kind handler $method call record tail);
                    Ok(())
                } )*
                _ => Err($crate::ops::DispatchError::UnknownOp { number: call.number, code }),
            }
        }
    };

    (@kind async) => { $crate::ops::Kind::Async };
    (@kind sync) => { $crate::ops::Kind::Sync };

    (@type $role:ident $object:ident) => { u64 };
    (@type $ty:ident) => { $ty };

    (@cache) => { $crate::ops::Cache::No };
    (@cache $cache:ident) => { $crate::ops::Cache::$cache };

    (@handles [$($done:tt)*]) => { &[$($done)*] };
    (@handles [$($done:tt)*] $field:ident : new $object:ident , $($rest:tt)*) => {
        $crate::ops!(@handles [$($done)* (stringify!($field), $crate::ops::Object::$object, $crate::ops::Role::New),] $($rest)*)
    };
    (@handles [$($done:tt)*] $field:ident : using $object:ident , $($rest:tt)*) => {
        $crate::ops!(@handles [$($done)* (stringify!($field), $crate::ops::Object::$object, $crate::ops::Role::Use),] $($rest)*)
    };
    (@handles [$($done:tt)*] $field:ident : end $object:ident , $($rest:tt)*) => {
        $crate::ops!(@handles [$($done)* (stringify!($field), $crate::ops::Object::$object, $crate::ops::Role::End),] $($rest)*)
    };
    (@handles [$($done:tt)*] $field:ident : opt $object:ident , $($rest:tt)*) => {
        $crate::ops!(@handles [$($done)* (stringify!($field), $crate::ops::Object::$object, $crate::ops::Role::Opt),] $($rest)*)
    };
    (@handles [$($done:tt)*] $field:ident : $ty:ident , $($rest:tt)*) => {
        $crate::ops!(@handles [$($done)*] $($rest)*)
    };

    (@reply async $name:ident) => { impl $crate::ops::AsyncRecord for $name {} };
    (@reply async $name:ident $reply:ident { $($rest:tt)* }) => {
        compile_error!(concat!("operation ", stringify!($name),
            " is asynchronous and has an output: nobody would be there to take it; make it sync"));
    };
    (@reply sync $name:ident) => {
        impl $crate::ops::SyncRecord for $name { type Reply = $crate::ops::Nothing; }
    };
    (@reply sync $name:ident $reply:ident { $( $rfield:ident : $rty:ident ),* }) => {
        #[derive(Clone, Copy, Debug, Default, ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $reply { $( pub $rfield: $rty ),* }
        impl $crate::ops::SyncRecord for $name { type Reply = $reply; }
    };

    (@method async $name:ident $method:ident $($reply:ident)?) => {
        fn $method(&mut self, call: $crate::ops::Call, record: &$name, tail: &[u8]) -> Result<(), $crate::ops::Status>;
    };
    (@method sync $name:ident $method:ident $($reply:ident)?) => {
        fn $method(&mut self, call: $crate::ops::Call, record: &$name, tail: &[u8])
            -> Result<$crate::ops::Answer<<$name as $crate::ops::SyncRecord>::Reply>, $crate::ops::Status>;
    };

    (@refuse async $name:ident $method:ident) => {
        fn $method(&mut self, _: $crate::ops::Call, _: &$name, _: &[u8]) -> Result<(), $crate::ops::Status> {
            Err($crate::ops::NOT_SUPPORTED)
        }
    };
    (@refuse sync $name:ident $method:ident) => {
        fn $method(&mut self, _: $crate::ops::Call, _: &$name, _: &[u8])
            -> Result<$crate::ops::Answer<<$name as $crate::ops::SyncRecord>::Reply>, $crate::ops::Status> {
            Err($crate::ops::NOT_SUPPORTED)
        }
    };

    (@dispatch async $handler:ident $method:ident $call:ident $record:ident $tail:ident) => {
        if let Err(status) = $handler.$method($call, &$record, $tail) {
            $handler.failed($call.number, status);
        }
    };
    (@dispatch sync $handler:ident $method:ident $call:ident $record:ident $tail:ident) => {
        match $handler.$method($call, &$record, $tail) {
            Ok($crate::ops::Answer::Now(reply, tail)) => {
                $handler.reply($call.number, 0, ::zerocopy::IntoBytes::as_bytes(&reply), &tail);
            }
            Ok($crate::ops::Answer::Later) => {}
            Err(status) => $handler.reply($call.number, status, &[], &[]),
        }
    };
}

/// Declares the server's events: fixed-layout records with a code, and nothing else.
#[macro_export]
macro_rules! events {
    ( $( $(#[$meta:meta])* $code:literal $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? } )* ) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout)]
            #[repr(C)]
            pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }
            impl $name {
                pub const CODE: u16 = $code;
            }
        )*
        /// An event as it arrived, with its variable part.
        #[derive(Clone, Copy, Debug)]
        pub enum Event<'a> { $( $name($name, &'a [u8]) ),* }

        impl<'a> Event<'a> {
            /// Decodes one record. `None`: unknown code, or too short.
            pub fn decode(code: u16, body: &'a [u8]) -> Option<Self> {
                match code {
                    $( $code => {
                        let (record, tail) = <$name as ::zerocopy::FromBytes>::read_from_prefix(body).ok()?;
                        Some(Self::$name(record, tail))
                    } )*
                    _ => None,
                }
            }
        }
    };
}
