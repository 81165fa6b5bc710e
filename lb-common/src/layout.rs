/// Declares a map key or value: `repr(C)`, plain data, of the stated size in
/// bytes, with its field list as text so that a changed layout is noticed
/// before pinned bytes are misread.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            bytemuck::Pod, bytemuck::Zeroable,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl $name {
            /// Name, size and fields in order.
            pub const LAYOUT: &str = concat!(
                stringify!($name), ":", stringify!($size), "{",
                $(stringify!($field), ":", stringify!($ty), ",",)* "}",
            );
        }

        const _: () = assert!(size_of::<$name>() == $size);

        #[cfg(feature = "user")]
        // SAFETY: `bytemuck::Pod`, derived above, holds the layout to the same
        // rules: `repr(C)`, no padding, every bit pattern valid.
        unsafe impl aya::Pod for $name {}
    };
}

pub(crate) use layout;
