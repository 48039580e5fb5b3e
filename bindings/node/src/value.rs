//! Arguments in. Each refusal is a `CortexError` that names the argument.

use std::ffi::CStr;
use std::fmt::Display;
use std::path::PathBuf;
use std::ptr::null_mut;

use napi::bindgen_prelude::{
    Array, BigInt, ClassInstance, FnArgs, FromNapiValue, Function, JsObjectValue, Object,
    ToNapiValue, Unknown, ValidateNapiValue,
};
use napi::{Env, JsValue, Status, UnknownRef, ValueType, sys};

use crate::error::{invalid, url_path};

/// What a value is, for a message.
fn article(kind: ValueType) -> &'static str {
    match kind {
        ValueType::Undefined => "undefined",
        ValueType::Null => "null",
        ValueType::Boolean => "a boolean",
        ValueType::Number => "a number",
        ValueType::String => "a string",
        ValueType::Symbol => "a symbol",
        ValueType::Object => "an object",
        ValueType::Function => "a function",
        ValueType::BigInt => "a bigint",
        _ => "of an unknown type",
    }
}

/// Refuses a value of the wrong type.
pub(crate) fn wrong(
    env: &Env,
    value: Unknown<'_>,
    name: impl Display,
    wanted: &str,
) -> napi::Error {
    let found = value.get_type().map_or("of an unknown type", article);
    invalid(env, format!("{name} is {found}; {wanted} is needed"))
}

/// Whether a value was left out: `undefined` or `null`.
pub(crate) fn absent(value: Unknown<'_>) -> napi::Result<bool> {
    Ok(matches!(
        value.get_type()?,
        ValueType::Undefined | ValueType::Null
    ))
}

/// The value, unless it was left out.
pub(crate) fn given(value: Unknown<'_>) -> napi::Result<Option<Unknown<'_>>> {
    Ok(if absent(value)? { None } else { Some(value) })
}

/// A value whose type was looked at.
fn cast<T: FromNapiValue>(value: Unknown<'_>) -> napi::Result<T> {
    // SAFETY: the value is alive, being an argument or a property read during this call, and
    // every conversion below checks its type once more.
    unsafe { value.cast() }
}

/// A value of Rust as one of JavaScript.
pub(crate) fn from(env: &Env, value: impl ToNapiValue) -> napi::Result<Unknown<'_>> {
    // SAFETY: the environment is that of the running call, and the result a value of it.
    unsafe {
        let value = ToNapiValue::to_napi_value(env.raw(), value)?;
        Ok(Unknown::from_raw_unchecked(env.raw(), value))
    }
}

/// A reference that keeps a value from being collected; it must be given back by `unref`.
pub(crate) fn keep(value: Unknown<'_>) -> napi::Result<UnknownRef<false>> {
    cast(value)
}

/// A string.
pub(crate) fn text(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<String> {
    match value.get_type()? {
        ValueType::String => cast(value),
        _ => Err(wrong(env, value, name, "a string")),
    }
}

/// A path: a string, or a `URL` of the scheme `file:`.
pub(crate) fn path(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<PathBuf> {
    match value.get_type()? {
        ValueType::String => Ok(cast::<String>(value)?.into()),
        ValueType::Object => {
            let url = cast::<Unknown<'static>>(value)?;
            let path = url_path(env, url).map_err(|e| caught(env, e));
            path.map(PathBuf::from)
                .map_err(|e| invalid(env, format!("{name}: {}", e.reason)))
        }
        _ => Err(wrong(env, value, name, "a string or a file URL")),
    }
}

/// A boolean.
pub(crate) fn boolean(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<bool> {
    match value.get_type()? {
        ValueType::Boolean => cast(value),
        _ => Err(wrong(env, value, name, "a boolean")),
    }
}

/// Numbers are exact up to here.
pub(crate) const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

fn whole(env: &Env, value: Unknown<'_>, name: &impl Display) -> napi::Result<f64> {
    if value.get_type()? != ValueType::Number {
        return Err(wrong(env, value, name, "a number"));
    }
    let number: f64 = cast(value)?;
    if number.fract() != 0.0 || number.abs() > MAX_SAFE_INTEGER {
        return Err(invalid(
            env,
            format!("{name} is {number}; a whole number is needed"),
        ));
    }
    Ok(number)
}

/// A whole number from 0.
pub(crate) fn size(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<usize> {
    let number = whole(env, value, &name)?;
    if number < 0.0 {
        return Err(invalid(
            env,
            format!("{name} is {number}; it must not be negative"),
        ));
    }
    Ok(number as usize)
}

fn signed(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<isize> {
    Ok(whole(env, value, &name)? as isize)
}

/// A number of 64 bits: a number as far as those are exact, or a bigint.
pub(crate) fn id(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<u64> {
    if value.get_type()? != ValueType::BigInt {
        return Ok(size(env, value, name)? as u64);
    }
    match cast::<BigInt>(value)?.get_u64() {
        (false, id, true) => Ok(id),
        _ => Err(invalid(
            env,
            format!("{name} does not fit 64 bits without a sign"),
        )),
    }
}

/// As a number if that is exact, else as a bigint.
pub(crate) fn from_id(env: &Env, id: u64) -> napi::Result<Unknown<'_>> {
    match id as f64 {
        number if number <= MAX_SAFE_INTEGER => from(env, number),
        _ => from(env, BigInt::from(id)),
    }
}

/// An object of one of the classes.
pub(crate) fn instance<'env, T: 'env>(
    env: &Env,
    value: Unknown<'env>,
    name: &str,
    wanted: &str,
) -> napi::Result<ClassInstance<'env, T>>
where
    ClassInstance<'env, T>: FromNapiValue,
{
    let refused = |_| wrong(env, value, name, wanted);
    match value.get_type()? {
        ValueType::Object => cast(value).map_err(refused),
        _ => Err(wrong(env, value, name, wanted)),
    }
}

/// A constructor or object that every JavaScript has.
fn global<T: FromNapiValue + ValidateNapiValue>(env: &Env, name: &str) -> napi::Result<T> {
    env.get_global()?.get_named_property(name)
}

/// A `Map` of texts, in their order. An object would not do: a key may be `__proto__`.
pub(crate) fn map<'a, 'env>(
    env: &'env Env,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> napi::Result<Unknown<'env>> {
    let entries: Vec<Vec<&str>> = entries.map(|(key, value)| vec![key, value]).collect();
    let map: Function<'env, FnArgs<(Vec<Vec<&str>>,)>, Unknown<'env>> = global(env, "Map")?;
    map.new_instance((entries,).into())
}

/// What JSON text stands for.
pub(crate) fn parse_json(env: &Env, text: String) -> napi::Result<Unknown<'_>> {
    let json: Object<'_> = global(env, "JSON")?;
    let parse: Function<'_, FnArgs<(String,)>, Unknown<'_>> = json.get_named_property("parse")?;
    parse.call((text,).into())
}

/// An array of at most `most` items.
pub(crate) fn list<'env, T>(
    env: &Env,
    value: Unknown<'env>,
    name: impl Display,
    most: usize,
    item: impl Fn(&Env, Unknown<'env>, Item<'_>) -> napi::Result<T>,
) -> napi::Result<Vec<T>> {
    if !value.is_array()? {
        return Err(wrong(env, value, name, "an array"));
    }
    let array: Array<'env> = cast(value)?;
    let len = array.len() as usize;
    if len > most {
        return Err(invalid(
            env,
            format!("{name} has {len} items; at most {most} are possible"),
        ));
    }
    let mut out = Vec::with_capacity(len);
    let object: Object<'env> = cast(value)?;
    for i in 0..len {
        let element = object
            .get_element::<Unknown<'env>>(i as u32)
            .map_err(|e| caught(env, e))?;
        out.push(item(env, element, Item(&name, i))?);
    }
    Ok(out)
}

/// Sizes, one a dimension.
pub(crate) fn sizes(env: &Env, value: Unknown<'_>, name: impl Display) -> napi::Result<Vec<usize>> {
    list(env, value, name, cortex::limits::MAX_DIMS, |e, v, n| {
        size(e, v, n)
    })
}

/// Distances, one a dimension.
pub(crate) fn distances(
    env: &Env,
    value: Unknown<'_>,
    name: impl Display,
) -> napi::Result<Vec<isize>> {
    list(env, value, name, cortex::limits::MAX_DIMS, |e, v, n| {
        signed(e, v, n)
    })
}

/// An object with named values, or nothing.
#[derive(Clone, Copy)]
pub(crate) struct Options<'env> {
    env: &'env Env,
    object: Option<Unknown<'env>>,
    name: &'static str,
}

impl<'env> Options<'env> {
    /// `undefined` and `null` hold nothing.
    pub(crate) fn new(
        env: &'env Env,
        value: Unknown<'env>,
        name: &'static str,
    ) -> napi::Result<Self> {
        let object = match value.get_type()? {
            ValueType::Undefined | ValueType::Null => None,
            ValueType::Object => Some(value),
            _ => return Err(wrong(env, value, name, "an object")),
        };
        Ok(Self { env, object, name })
    }

    /// The object itself.
    pub(crate) fn object(&self) -> Option<Unknown<'env>> {
        self.object
    }

    /// A value that was not left out.
    pub(crate) fn get(&self, key: &CStr) -> napi::Result<Option<Unknown<'env>>> {
        match self.object {
            Some(object) => given(property(self.env, object, key)?),
            None => Ok(None),
        }
    }

    /// Whether there is a property of this name, whatever its value.
    pub(crate) fn has(&self, key: &CStr) -> napi::Result<bool> {
        let Some(object) = self.object else {
            return Ok(false);
        };
        let mut found = false;
        // SAFETY: environment and object are those of the running call.
        let status = unsafe {
            sys::napi_has_named_property(self.env.raw(), object.raw(), key.as_ptr(), &mut found)
        };
        checked(self.env, status).map(|()| found)
    }

    /// A value that was not left out, read by one of the functions above.
    pub(crate) fn read<T>(
        &self,
        key: &'static CStr,
        read: impl FnOnce(&Env, Unknown<'env>, Name) -> napi::Result<T>,
    ) -> napi::Result<Option<T>> {
        match self.get(key)? {
            Some(value) => read(self.env, value, Name(self.name, key)).map(Some),
            None => Ok(None),
        }
    }
}

/// `options.threads`, written out only where a message needs it.
#[derive(Clone, Copy)]
pub(crate) struct Name(&'static str, &'static CStr);

impl Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1.to_string_lossy())
    }
}

/// `shape[0]`, likewise.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a>(&'a dyn Display, usize);

impl Display for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

/// A property, whose getter may run JavaScript.
fn property<'env>(
    env: &'env Env,
    object: Unknown<'env>,
    key: &CStr,
) -> napi::Result<Unknown<'env>> {
    let mut value = null_mut();
    // SAFETY: environment and object are those of the running call; on success the result is
    // a value of the same scope.
    unsafe {
        let status =
            sys::napi_get_named_property(env.raw(), object.raw(), key.as_ptr(), &mut value);
        checked(env, status)?;
        Ok(Unknown::from_raw_unchecked(env.raw(), value))
    }
}

/// Sets a property.
pub(crate) fn set_property(object: Unknown<'_>, key: &str, value: &str) -> napi::Result<()> {
    let mut object: Object<'_> = cast(object)?;
    object.set_named_property(key, value)
}

fn checked(env: &Env, status: sys::napi_status) -> napi::Result<()> {
    match status {
        sys::Status::napi_ok => Ok(()),
        status => Err(caught(env, napi::Error::from_status(Status::from(status)))),
    }
}

/// What JavaScript threw, taken from where it waits to be thrown on, so that it can settle a
/// promise as well.
pub(crate) fn caught(env: &Env, error: napi::Error) -> napi::Error {
    let mut pending = false;
    let mut thrown = null_mut();
    // SAFETY: the environment is that of the running call; on success the result is a value
    // of its scope.
    unsafe {
        let ok = sys::Status::napi_ok;
        if sys::napi_is_exception_pending(env.raw(), &mut pending) == ok
            && pending
            && sys::napi_get_and_clear_last_exception(env.raw(), &mut thrown) == ok
        {
            let thrown = Unknown::from_raw_unchecked(env.raw(), thrown);
            return napi::Error::from_unknown_without_coercion(thrown);
        }
    }
    error
}
