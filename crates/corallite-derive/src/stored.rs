//! `#[derive(StoredObject)]` and `#[derive(StoredRaw)]`.

use std::collections::HashMap;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Expr, Field, Fields, Path, Result};

use crate::attributes::{IndexBy, Of, OnField, OnStruct, check_collection, plain};

/// A field of the struct.
struct Part<'a> {
    field: &'a Field,
    on: OnField,
    /// What it is called in the document.
    name: String,
}

/// A struct, as far as objects and files have in common.
struct Form<'a> {
    on: OnStruct,
    objects: Path,
    name: String,
    collection: String,
    parts: Vec<Part<'a>>,
}

impl<'a> Form<'a> {
    fn read(input: &'a DeriveInput, of: Of) -> Result<Self> {
        let on = OnStruct::read(input, of)?;
        if !input.generics.params.is_empty() {
            let problem = "a class has one form: it cannot be generic, nor borrow what it holds";
            return Err(Error::new(input.generics.span(), problem));
        }
        let fields = match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => Some(&fields.named),
                Fields::Unit => None,
                Fields::Unnamed(fields) => {
                    return Err(Error::new(fields.span(), "properties have names; write `struct … { name: … }`"));
                }
            },
            _ => return Err(Error::new(input.ident.span(), "only a struct can be the form of a class")),
        };
        let name_span = on.name.as_ref().map_or(input.ident.span(), |name| name.span());
        let name = on.name.as_ref().map_or_else(|| plain(&input.ident), |name| name.value());
        let collection_span = on.collection.as_ref().map_or(name_span, |name| name.span());
        let collection = on.collection.as_ref().map_or_else(|| name.clone(), |name| name.value());
        check_collection(&collection, collection_span)?;

        // Every field's mistake is told at once.
        let (mut parts, mut taken, mut errors) = (Vec::new(), HashMap::new(), None);
        for field in fields.into_iter().flatten() {
            match Part::read(field, of, &mut taken) {
                Ok(part) => parts.push(part),
                Err(error) => combine(&mut errors, error),
            }
        }
        match errors {
            Some(errors) => Err(errors),
            None => Ok(Self { objects: on.crate_path(), on, name, collection, parts }),
        }
    }

    /// The functions that make a map of the struct, and the struct of a map.
    fn conversions(&self) -> TokenStream {
        let (objects, class) = (&self.objects, &self.name);
        let made = quote!(#objects::typed::made);
        let mut puts = Vec::new();
        let mut takes = Vec::new();
        for Part { field, on, name } in &self.parts {
            let (ident, span) = (&field.ident, field.ty.span());
            if on.skip.is_some() {
                takes.push(quote_spanned!(span=> #ident: ::core::default::Default::default()));
                continue;
            }
            puts.push(quote_spanned!(span=> #made::put(&mut values, #class, #name, &self.#ident)?;));
            takes.push(match &on.default {
                None => quote_spanned!(span=> #ident: #made::take(&mut values, #class, #name)?),
                Some(default) => {
                    let default = default_value(default.as_ref());
                    quote_spanned!(span=> #ident: #made::take_or(&mut values, #class, #name, || #default)?)
                }
            });
        }
        quote! {
            fn to_values(&self) -> #objects::Result<#made::Map<::std::string::String, #made::Value>> {
                #[allow(unused_mut)]
                let mut values = #made::Map::new();
                #(#puts)*
                ::core::result::Result::Ok(values)
            }

            fn from_values(
                #[allow(unused_mut, unused_variables)] mut values: #made::Map<::std::string::String, #made::Value>,
            ) -> #objects::Result<Self> {
                ::core::result::Result::Ok(Self { #(#takes),* })
            }
        }
    }
}

impl<'a> Part<'a> {
    fn read(field: &'a Field, of: Of, taken: &mut HashMap<String, ()>) -> Result<Self> {
        let on = OnField::read(field, of)?;
        if on.skip.is_some() {
            return Ok(Self { field, on, name: String::new() });
        }
        let name = on.name(field)?;
        if taken.insert(name.clone(), ()).is_some() {
            return Err(Error::new(field.span(), format!("`{name}` is there twice")));
        }
        Ok(Self { field, on, name })
    }

    /// `class` with this property or relation.
    fn declared(&self, objects: &Path) -> TokenStream {
        let (name, ty) = (&self.name, &self.field.ty);
        let made = quote!(#objects::typed::made);
        let span = ty.span();
        let default = match &self.on.default {
            None => quote!(::core::option::Option::None),
            Some(default) => {
                let default = default_value(default.as_ref());
                quote_spanned!(span=> #made::default_of::<#ty>(#default))
            }
        };
        if let Some(of) = &self.on.of {
            let of = within(objects, "Type", of);
            return quote_spanned!(span=> #made::property(class, #name, #of, #default));
        }
        if let Some(on_remove) = &self.on.on_remove {
            let on_remove = within(objects, "OnRemove", on_remove);
            return quote_spanned!(span=> #made::relation::<#ty>(class, #name, #on_remove));
        }
        quote_spanned!(span=> (&&&#made::Probe::<#ty>::new()).declare(class, #name, #default))
    }

    /// `class` with this one's index.
    fn indexed(&self, objects: &Path) -> Option<TokenStream> {
        let name = &self.name;
        let by = match self.on.index.as_ref()? {
            Some(by) => within(objects, "Indexing", by),
            None => quote!(#objects::Indexing::Value),
        };
        let unique = self.on.unique.map(|_| quote!(.unique()));
        Some(quote!(class.with_index(#name, #objects::Index::of_property(#name, #by)#unique)))
    }
}

pub(crate) fn object(input: &DeriveInput) -> Result<TokenStream> {
    let form = Form::read(input, Of::Object)?;
    let (objects, ident) = (&form.objects, &input.ident);
    let mut indexes: HashMap<String, ()> =
        form.parts.iter().filter(|part| part.on.index.is_some()).map(|part| (part.name.clone(), ())).collect();
    let mut steps: Vec<TokenStream> = Vec::new();
    for part in form.parts.iter().filter(|part| part.on.skip.is_none()) {
        steps.push(part.declared(objects));
        steps.extend(part.indexed(objects));
    }
    for IndexBy { name, function, query, version, is_unique } in &form.on.index_by {
        let text = plain(name);
        if indexes.insert(text.clone(), ()).is_some() {
            return Err(Error::new(name.span(), format!("there are two indexes `{text}`")));
        }
        let query = match query {
            Some(query) => within(objects, "Indexing", query),
            None => quote!(#objects::Indexing::Value),
        };
        let version = version.as_ref().map_or(quote!(0), |version| quote!(#version));
        let unique = is_unique.map(|()| quote!(.unique()));
        steps.push(quote_spanned! {function.span()=>
            class.with_index(#text, #objects::typed::made::index_by::<Self, _, _>(#query, #version, #function)#unique)
        });
    }
    if let Some(version) = &form.on.version {
        let migrate = match &form.on.migrate {
            Some(migrate) => quote!(#migrate),
            None => quote!(|_, _| ::core::result::Result::Ok(())),
        };
        steps.push(quote!(class.migrate(#version, #migrate)));
    }
    if form.on.is_open.is_some() {
        steps.push(quote!(class.open()));
    }
    let (name, collection, conversions) = (&form.name, &form.collection, form.conversions());
    Ok(quote! {
        const _: () = {
            #[allow(unused_imports)]
            use #objects::typed::made::{OfAnyType as _, OfKnownType as _, OfRelation as _};

            #[automatically_derived]
            impl #objects::Related for #ident {
                const COLLECTION: &'static str = #collection;
                type Handle = #objects::Object<Self>;

                fn load(storage: &#objects::ObjectStorage, oid: &str)
                    -> #objects::Result<::core::option::Option<Self::Handle>>
                {
                    #objects::typed::made::load_object(storage, oid)
                }
            }

            #[automatically_derived]
            impl #objects::Stored for #ident {
                const NAME: &'static str = #name;

                fn class() -> #objects::Class {
                    let class = #objects::Class::new(#name).in_collection(#collection);
                    #(let class = #steps;)*
                    class
                }

                #conversions
            }
        };
    })
}

pub(crate) fn file(input: &DeriveInput) -> Result<TokenStream> {
    let form = Form::read(input, Of::File)?;
    let (objects, ident) = (&form.objects, &input.ident);
    let mut fields = Vec::new();
    for Part { field, on, name } in form.parts.iter().filter(|part| part.on.skip.is_none()) {
        let (ty, span) = (&field.ty, field.ty.span());
        let of = match &on.of {
            Some(of) => within(objects, "Type", of),
            None => quote_spanned!(span=> (&&&#objects::typed::made::Probe::<#ty>::new()).of()),
        };
        fields.push(quote!(.field(#name, #of)));
    }
    let (name, collection, conversions) = (&form.name, &form.collection, form.conversions());
    Ok(quote! {
        const _: () = {
            #[allow(unused_imports)]
            use #objects::typed::made::{OfAnyType as _, OfKnownType as _};

            #[automatically_derived]
            impl #objects::Related for #ident {
                const COLLECTION: &'static str = #collection;
                type Handle = #objects::Raw<Self>;

                fn load(storage: &#objects::ObjectStorage, oid: &str)
                    -> #objects::Result<::core::option::Option<Self::Handle>>
                {
                    #objects::typed::made::load_file(storage, oid)
                }
            }

            #[automatically_derived]
            impl #objects::StoredFile for #ident {
                const NAME: &'static str = #name;

                fn class() -> #objects::RawClass {
                    #objects::RawClass::new(#name).in_collection(#collection)#(#fields)*
                }

                #conversions
            }
        };
    })
}

/// An expression in which the variants of an enum need not be qualified.
fn within(objects: &Path, of: &str, value: &Expr) -> TokenStream {
    let of = syn::Ident::new(of, Span::call_site());
    quote_spanned! {value.span()=> {
        #[allow(unused_imports)]
        use #objects::{#of, #of::*};
        #value
    }}
}

fn default_value(default: Option<&Expr>) -> TokenStream {
    match default {
        Some(value) => quote!(::core::convert::Into::into(#value)),
        None => quote!(::core::default::Default::default()),
    }
}

fn combine(errors: &mut Option<Error>, error: Error) {
    match errors {
        Some(errors) => errors.combine(error),
        None => *errors = Some(error),
    }
}
