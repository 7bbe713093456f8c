//! Passwords: kept as argon2id hashes in the PHC string format.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use uuid::Uuid;

/// The hash of a password, with a salt of its own: argon2id with the parameters that the crate recommends (19 MiB, 2
/// passes), which takes tens of milliseconds.
pub(super) fn hash(password: &str) -> String {
    // 122 random bits of the system.
    let salt = SaltString::encode_b64(Uuid::new_v4().as_bytes());
    // It fails for passwords over 4 GiB only; nothing verifies against an empty hash.
    let hash = salt.and_then(|salt| Ok(Argon2::default().hash_password(password.as_bytes(), &salt)?.to_string()));
    hash.unwrap_or_default()
}

pub(super) fn is_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok()
}

/// Whether a password is the one whose hash was kept. `false` for what is no hash.
///
/// ```
/// use corallite_objects::types::{Type, verify_password};
///
/// let kept = Type::Password.accept("correct horse".into())?;
/// let kept = kept.as_str().unwrap_or_default();
/// assert!(verify_password(kept, "correct horse") && !verify_password(kept, "battery staple"));
/// # Ok::<(), corallite_objects::types::Violation>(())
/// ```
pub fn verify(kept: &str, password: &str) -> bool {
    PasswordHash::new(kept).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}
