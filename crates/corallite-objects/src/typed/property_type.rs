//! What the properties of Rust types may hold.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::types::Type;

/// A Rust type of which it is known what properties of it may hold. `#[derive(PropertyType)]` implements it for enums of
/// variants without values, and for structs around one value.
///
/// | | |
/// |---|---|
/// | `bool`; `String`, `char`, `Cow<str>`, `PathBuf` | [`Type::Bool`]; [`Type::String`] |
/// | whole numbers | [`Type::Integer`] or [`Type::Positive`], of fewer than 64 bits in their [`Type::Range`] |
/// | `f32`, `f64` | [`Type::Float`] |
/// | `Vec`, `VecDeque`, arrays, sets; tuples of up to 4 | [`Type::List`]; [`Type::Tuple`] |
/// | `Option` | its value's; in lists and the like, or null |
/// | `Box` | its value's |
/// | `Value`, and maps by text | [`Type::Any`] |
/// | of `jiff` `civil::Date`, `civil::Time`, `civil::DateTime` and `Timestamp` | [`Type::Date`], [`Type::Time`], [`Type::DateTime`] |
///
/// ```
/// use corallite_objects::{PropertyType, Type};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(PropertyType, Serialize, Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum Level { ReadOnly, Writer }
///
/// assert_eq!(Vec::<Level>::property_type(), Type::list(Type::enumeration(["read-only", "writer"])));
/// ```
pub trait PropertyType {
    /// What a value of it may be.
    fn property_type() -> Type;

    /// What a property of it may hold. A property without a value has no type.
    fn field_type() -> Type {
        Self::property_type()
    }
}

macro_rules! known {
    ($($($rust:ty),+ => $of:expr;)+) => {
        $($(impl PropertyType for $rust {
            fn property_type() -> Type {
                $of
            }
        })+)+
    };
}

known! {
    bool => Type::Bool;
    i64, isize => Type::Integer;
    u64, usize => Type::Positive;
    f32, f64 => Type::Float;
    String, str, char, Cow<'_, str>, PathBuf => Type::String;
    Value, Map<String, Value> => Type::Any;
    jiff::civil::Date => Type::Date;
    jiff::civil::Time => Type::Time;
    jiff::civil::DateTime, jiff::Timestamp => Type::DateTime;
}

macro_rules! ranges {
    ($($rust:ty => $of:expr;)+) => {
        $(impl PropertyType for $rust {
            fn property_type() -> Type {
                Type::range(<$rust>::MIN, <$rust>::MAX, $of)
            }
        })+
    };
}

ranges! {
    i8 => Type::Integer;
    i16 => Type::Integer;
    i32 => Type::Integer;
    u8 => Type::Positive;
    u16 => Type::Positive;
    u32 => Type::Positive;
}

macro_rules! lists {
    ($([$($generics:tt)*] $rust:ty;)+) => {
        $(impl<$($generics)*> PropertyType for $rust {
            fn property_type() -> Type {
                Type::list(T::property_type())
            }
        })+
    };
}

lists! {
    [T: PropertyType] Vec<T>;
    [T: PropertyType] VecDeque<T>;
    [T: PropertyType] BTreeSet<T>;
    [T: PropertyType, S] HashSet<T, S>;
    [T: PropertyType, const N: usize] [T; N];
}

macro_rules! tuples {
    ($(($($part:ident),+))+) => {
        $(impl<$($part: PropertyType),+> PropertyType for ($($part,)+) {
            fn property_type() -> Type {
                Type::tuple([$($part::property_type()),+])
            }
        })+
    };
}

tuples! { (A) (A, B) (A, B, C) (A, B, C, D) }

impl<T: PropertyType> PropertyType for Option<T> {
    fn property_type() -> Type {
        Type::one_of([T::property_type(), Type::Enum(vec![Value::Null])])
    }

    fn field_type() -> Type {
        T::field_type()
    }
}

impl<T: PropertyType + ?Sized> PropertyType for Box<T> {
    fn property_type() -> Type {
        T::property_type()
    }

    fn field_type() -> Type {
        T::field_type()
    }
}

// Their names are theirs, which `Type::Map` has to know.
impl<T> PropertyType for BTreeMap<String, T> {
    fn property_type() -> Type {
        Type::Any
    }
}

impl<T, S> PropertyType for HashMap<String, T, S> {
    fn property_type() -> Type {
        Type::Any
    }
}
