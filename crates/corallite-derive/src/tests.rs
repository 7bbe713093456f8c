//! What the macros refuse, and how they say so.

use quote::quote;
use syn::parse_quote;

use crate::{property_type, stored};

fn refused(input: syn::DeriveInput) -> Vec<String> {
    let error = stored::object(&input).expect_err("it makes no sense");
    error.into_iter().map(|error| error.to_string()).collect()
}

#[test]
fn names_that_no_property_can_have_are_refused_where_they_are() {
    for name in ["oid", "updates", "r#type"] {
        let name: syn::Ident = syn::parse_str(name).expect("an identifier");
        let errors = refused(parse_quote!(struct A { #name: String }));
        assert!(
            errors[0].ends_with(
                "reserved, as type, oid, updates are; take another name, or say `#[object(rename = \"…\")]`"
            )
        );
        let renamed: syn::DeriveInput = parse_quote!(struct A { #[object(rename = "kind")] #name: String });
        assert!(stored::object(&renamed).is_ok());
    }
    assert_eq!(
        refused(parse_quote!(
            struct A {
                #[object(rename = "a b")]
                a: u8,
            }
        )),
        ["`a b` is no name; names are letters, digits and `_`"]
    );
    assert_eq!(
        refused(parse_quote!(
            struct A {
                a: u8,
                #[object(rename = "a")]
                b: u8,
            }
        )),
        ["`a` is there twice"]
    );
    assert_eq!(
        refused(parse_quote!(
            #[object(collection = "a.b")]
            struct A;
        )),
        ["a collection is named with 1 to 200 letters, digits, `_` and `-`"]
    );
}

#[test]
fn what_has_no_form_of_its_own_is_refused() {
    for input in [
        quote!(
            struct A<T> {
                a: T,
            }
        ),
        quote!(
            struct A<'a> {
                a: &'a str,
            }
        ),
        quote!(
            struct A<const N: usize>;
        ),
    ] {
        let input = syn::parse2(input).expect("a struct");
        assert_eq!(refused(input), ["a class has one form: it cannot be generic, nor borrow what it holds"]);
    }
    assert_eq!(
        refused(parse_quote!(
            struct A(u8);
        )),
        ["properties have names; write `struct … { name: … }`"]
    );
    assert_eq!(
        refused(parse_quote!(
            enum A {
                B,
            }
        )),
        ["only a struct can be the form of a class"]
    );
}

#[test]
fn attributes_that_are_not_known_or_fit_nothing_are_refused_with_those_there_are() {
    let both = refused(parse_quote!(
        struct A {
            #[object(indx)]
            a: u8,
            #[object(unique)]
            b: u8,
        }
    ));
    assert_eq!(
        both,
        [
            "this is not known here; there is type, index, unique, on_remove, default, rename, skip",
            "`unique` is said of an index; say which: `index = Normalize, unique`",
        ]
    );
    for (input, problem) in [
        (
            quote!(
                #[object(table = "a")]
                struct A;
            ),
            "this is not known here; there is name, collection, version, migrate, open, index_by, crate",
        ),
        (
            quote!(
                #[object(version = 1, version = 2)]
                struct A;
            ),
            "this is said twice",
        ),
        (
            quote!(
                #[object(migrate = f)]
                struct A;
            ),
            "`migrate` makes documents those of a version; say `version = 1` too",
        ),
        (
            quote!(
                #[object(index_by(a = f))]
                struct A {
                    #[object(index)]
                    a: u8,
                }
            ),
            "there are two indexes `a`",
        ),
        (
            quote!(
                struct A {
                    #[object(skip, index)]
                    a: u8,
                }
            ),
            "what is skipped is not stored, so there is no more to say about it",
        ),
        (
            quote!(
                struct A {
                    #[object(type = Line, on_remove = Drop)]
                    a: u8,
                }
            ),
            "a property has a `type`, a relation an `on_remove`; nothing has both",
        ),
    ] {
        assert_eq!(refused(syn::parse2(input).expect("a struct")), [problem]);
    }
    let file: syn::DeriveInput = parse_quote!(
        struct A {
            #[object(index)]
            a: u8,
        }
    );
    assert!(stored::file(&file).is_err(), "files have no indexes");
}

#[test]
fn only_enums_without_values_and_structs_around_one_are_known_types() {
    let known = |input| property_type::expand(&syn::parse2(input).expect("a type")).is_ok();
    assert!(
        known(quote!(
            enum A {
                B,
                C,
            }
        )) && known(quote!(
            struct A(u8);
        ))
    );
    assert!(
        !known(quote!(
            enum A {
                B(u8),
            }
        )) && !known(quote!(
            struct A {
                b: u8,
            }
        )) && !known(quote!(
            struct A<T>(T);
        ))
    );
}
