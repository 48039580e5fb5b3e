//! Texts and paths. Java passes UTF-8, since its own strings may hold what is no text.

use std::path::PathBuf;

use jni::Env;
use jni::objects::{JByteArray, JObjectArray, JString};
use jni::refs::IntoAuto;

use crate::error::{Result, invalid};

/// A text.
pub(crate) fn text(env: &Env<'_>, bytes: &JByteArray<'_>, name: &str) -> Result<String> {
    if bytes.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    String::from_utf8(env.convert_byte_array(bytes)?)
        .map_err(|e| invalid(format!("{name} is not UTF-8: {e}")))
}

/// A text, or nothing for null.
pub(crate) fn optional_text(
    env: &Env<'_>,
    bytes: &JByteArray<'_>,
    name: &str,
) -> Result<Option<String>> {
    match bytes.is_null() {
        true => Ok(None),
        false => text(env, bytes, name).map(Some),
    }
}

/// A path.
pub(crate) fn path(env: &Env<'_>, bytes: &JByteArray<'_>, name: &str) -> Result<PathBuf> {
    let text = text(env, bytes, name)?;
    match text.is_empty() {
        true => Err(invalid(format!("{name} is empty"))),
        false => Ok(text.into()),
    }
}

/// A `String[]`.
pub(crate) fn strings<'local, 's>(
    env: &mut Env<'local>,
    texts: impl ExactSizeIterator<Item = &'s str>,
) -> Result<JObjectArray<'local, JString<'local>>> {
    let array = JObjectArray::<JString>::new(env, texts.len(), JString::null())?;
    for (i, text) in texts.enumerate() {
        // Freed at once: a frame has room for few references.
        let text = JString::from_str(env, text)?.auto();
        array.set_element(env, i, &text)?;
    }
    Ok(array)
}
