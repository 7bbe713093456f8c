//! `#[derive(PropertyType)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Result};

use crate::attributes::{Of, OnStruct};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let objects = OnStruct::read(input, Of::PropertyType)?.crate_path();
    if !input.generics.params.is_empty() {
        return Err(Error::new(
            input.generics.span(),
            "a generic type's properties are not known; implement `PropertyType`",
        ));
    }
    let of = match &input.data {
        Data::Enum(data) => {
            let mut values = Vec::with_capacity(data.variants.len());
            for variant in &data.variants {
                if !matches!(variant.fields, Fields::Unit) {
                    let problem = "only variants without values are known; leave the derive out, and properties of this \
                                   type may hold any JSON, or implement `PropertyType`";
                    return Err(Error::new(variant.span(), problem));
                }
                let name = &variant.ident;
                values.push(quote_spanned!(variant.span()=> #objects::typed::made::value_of(&Self::#name)));
            }
            // What serde skips has no value.
            quote!(#objects::Type::Enum([#(#values),*].into_iter().flatten().collect()))
        }
        Data::Struct(data) => match &data.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                let inner = &fields.unnamed[0].ty;
                quote_spanned!(inner.span()=> <#inner as #objects::PropertyType>::property_type())
            }
            _ => return Err(Error::new(input.ident.span(), UNKNOWN)),
        },
        Data::Union(_) => return Err(Error::new(input.ident.span(), UNKNOWN)),
    };
    let name = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #objects::PropertyType for #name {
            fn property_type() -> #objects::Type {
                #of
            }
        }
    })
}

const UNKNOWN: &str = "only enums and structs around one value are known, since serde decides how others look; leave the \
                       derive out, and properties of this type may hold any JSON, or implement `PropertyType`";
