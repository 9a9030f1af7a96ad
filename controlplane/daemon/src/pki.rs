//! Kubernetes' own keys: the certificate authority and the service-account key. The first set is made on the machine that bootstraps,
//! another one when a control-plane machine left that knew it (`controlplane/members` says when, and which set does what).
//!
//! They lie in a folder that only this program reads (files 0600). They vouch for the Kubernetes API's server certificate and for
//! service-account tokens, and for nobody on the machine API.

use controlplane_apiserver::ServiceAccountKeys;
use controlplane_members::{Keyring, Roles};
use machined_access::Leaf;
use machined_access::tls::ServerKeys;
use machined_ids::Digest;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::watch;

/// Years that the authority is valid: longer than any machine lives, because replacing it means touching every client.
const AUTHORITY_YEARS: i16 = 10;

/// Years that the server certificate is valid. It is made anew at each start and lies on no disk.
const SERVER_YEARS: i16 = 1;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A key or certificate cannot be made or read.
    #[error("cannot {doing}")]
    Certificate {
        doing: &'static str,
        #[source]
        source: rcgen::Error,
    },
    /// The stored certificate is no PEM.
    #[error("{} is no certificate in PEM", path.display())]
    Pem { path: PathBuf },
    /// The service-account key cannot be used.
    #[error("cannot use the service-account key")]
    ServiceAccount(#[source] controlplane_apiserver::KeyError),
    /// A set's file holds another set, or none.
    #[error("{} does not hold the keys that it is named after; remove it, and another member gives them", path.display())]
    Other { path: PathBuf },
    /// A set is no JSON of ours.
    #[error("a set of keys cannot be read or written as text")]
    Text(#[source] serde_json::Error),
    /// A set is to be used that lies elsewhere.
    #[error("the keys {keys} are not on this machine")]
    NotHere { keys: Digest },
    /// A key cannot sign, or is not that of its certificate.
    #[error("a certificate and its key cannot be used")]
    Serve(#[source] rustls::Error),
    /// The keys belong to the bootstrap machine, and this is another.
    #[error("{} has no keys, and this machine may not make them; only the bootstrap machine does", folder.display())]
    Missing { folder: PathBuf },
}

/// The files of the set that a machine began with: it made it, or was given it when it joined.
const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVICE_ACCOUNTS_KEY: &str = "sa.key";

/// Any other set is one file, named by its digest.
const SET_SUFFIX: &str = ".keys";

/// Bytes of a set that are read; it has about one KiB.
const SET_BYTES_MAX: u64 = 64 * 1024;

/// A set of the cluster's keys, on a disk or on its way from one control-plane machine to another. Secret; never logged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bundle {
    authority: String,
    authority_key: String,
    service_accounts_key: String,
}

impl Bundle {
    fn make() -> Result<Bundle, PkiError> {
        let (key, own) = make_authority()?;
        let service_accounts_key = ServiceAccountKeys::generate_pem().map_err(PkiError::ServiceAccount)?;
        Ok(Bundle { authority: own.pem(), authority_key: key.serialize_pem(), service_accounts_key })
    }

    /// Writes the keys into `folder` as those that this machine begins with, where [`Pki::open`] finds them.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), PkiError> {
        make_folder(folder)?;
        write_secret(&folder.join(AUTHORITY_KEY), &self.authority_key)?;
        write_secret(&folder.join(SERVICE_ACCOUNTS_KEY), &self.service_accounts_key)?;
        // The last file written is the sign that all are there.
        write_secret(&folder.join(AUTHORITY), &self.authority)
    }

    /// The set's name: over what everybody may know, the authority's certificate and the public half of the service-account key.
    fn digest(&self) -> Result<Digest, PkiError> {
        let authority = self.authority_der()?;
        let accounts = KeyPair::from_pem(&self.service_accounts_key)
            .map_err(certificate("read the service-account key"))?
            .subject_public_key_info();
        let length = u64::try_from(authority.len()).unwrap_or(u64::MAX).to_be_bytes();
        let hash = Sha256::new_with_prefix(b"cairn.keys.v1\n").chain_update(length).chain_update(&authority);
        Ok(Digest::from_bytes(hash.chain_update(accounts).finalize().into()))
    }

    /// Checks that every key in it can be used, and that the authority's key is that of its certificate.
    fn check(&self) -> Result<(), PkiError> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.authority_key()?.serialize_der()));
        // What could be served with fits together; nobody serves with the authority itself.
        ServerKeys::new(Leaf { chain: vec![self.authority_der()?], key }).map_err(PkiError::Serve)?;
        ServiceAccountKeys::from_pem(&self.service_accounts_key).map(drop).map_err(PkiError::ServiceAccount)
    }

    fn authority_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        let pem = self.authority.as_bytes();
        CertificateDer::from_pem_slice(pem).map_err(|_| PkiError::Pem { path: PathBuf::from(AUTHORITY) })
    }

    fn authority_key(&self) -> Result<KeyPair, PkiError> {
        KeyPair::from_pem(&self.authority_key).map_err(certificate("read the authority's key"))
    }

    /// A server certificate for the API under these names, signed by the authority.
    fn server_leaf(&self, names: &[String]) -> Result<Leaf, PkiError> {
        let failed = certificate("sign the API server's certificate");
        let mut params = CertificateParams::new(names).map_err(certificate("put the names into a certificate"))?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, SERVER_YEARS);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make a server key"))?;
        let authority_key = self.authority_key()?;
        let issuer = Issuer::from_ca_cert_pem(&self.authority, &authority_key)
            .map_err(certificate("read the authority's certificate"))?;
        let leaf = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Leaf {
            chain: vec![leaf.der().clone(), self.authority_der()?],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }
}

fn certificate(doing: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { doing, source }
}

/// The sets of keys on this machine, and what they are used for. What uses them follows when that changes.
pub(crate) struct Pki {
    folder: PathBuf,
    held: RwLock<BTreeMap<Digest, Arc<Bundle>>>,
    accounts: Arc<ServiceAccountKeys>,
    authorities: watch::Sender<String>,
    served: Mutex<Served>,
}

/// What clients of the API are shown.
#[derive(Default)]
struct Served {
    /// The set whose authority signs certificates.
    by: Option<Arc<Bundle>>,
    /// Where certificates go, and the names in them.
    place: Option<(Arc<ServerKeys>, Vec<String>)>,
}

impl Served {
    fn show(&self) -> Result<(), PkiError> {
        let (Some(by), Some((keys, names))) = (&self.by, &self.place) else { return Ok(()) };
        keys.set_public(by.server_leaf(names)?).map_err(PkiError::Serve)
    }
}

impl Pki {
    /// Reads the sets in `folder`, or makes one where there is none and `bootstrap` allows it. A machine with one set uses it; with more,
    /// nothing is used before [`Keyring::employ`] says which.
    pub(crate) fn open(folder: &Path, bootstrap: bool) -> Result<Pki, PkiError> {
        let mut held = read_sets(folder)?;
        if held.is_empty() {
            if !bootstrap {
                return Err(PkiError::Missing { folder: folder.to_owned() });
            }
            let made = Bundle::make()?;
            made.keep(folder)?;
            tracing::info!(folder = %folder.display(), "made the Kubernetes certificate authority");
            held.insert(made.digest()?, Arc::new(made));
        }
        let any = held.values().next().expect("because one was just made where there was none");
        let accounts = ServiceAccountKeys::from_pem(&any.service_accounts_key).map_err(PkiError::ServiceAccount)?;
        let pki = Pki {
            folder: folder.to_owned(),
            accounts: Arc::new(accounts),
            authorities: watch::channel(String::new()).0,
            served: Mutex::default(),
            held: RwLock::new(held),
        };
        if let [only] = pki.held().into_iter().collect::<Vec<_>>()[..] {
            pki.use_sets(&Roles { serving: only, tokens: only, believed: [only].into() })?;
        }
        Ok(pki)
    }

    fn set(&self, keys: &Digest) -> Option<Arc<Bundle>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(keys).cloned()
    }

    /// The authorities that clients are to trust, in PEM: first the one that certificates are signed by.
    pub(crate) fn authorities(&self) -> watch::Receiver<String> {
        self.authorities.subscribe()
    }

    /// The keys of service-account tokens.
    pub(crate) fn service_accounts(&self) -> Arc<ServiceAccountKeys> {
        Arc::clone(&self.accounts)
    }

    /// Has `keys` show a certificate under these names, a new one whenever another authority signs.
    pub(crate) fn show(&self, keys: Arc<ServerKeys>, names: Vec<String>) -> Result<(), PkiError> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.place = Some((keys, names));
        served.show()
    }

    fn use_sets(&self, roles: &Roles<Digest>) -> Result<(), PkiError> {
        let set = |keys: &Digest| self.set(keys).ok_or(PkiError::NotHere { keys: *keys });
        let (serving, tokens) = (set(&roles.serving)?, set(&roles.tokens)?);
        let others = roles.believed.iter().filter(|keys| **keys != roles.serving).map(set);
        let others: Vec<Arc<Bundle>> = others.collect::<Result<_, _>>()?;
        // What is believed comes before what is signed.
        let believed: Vec<&str> =
            [&serving].into_iter().chain(&others).map(|set| set.service_accounts_key.as_str()).collect();
        self.accounts.replace(&tokens.service_accounts_key, &believed).map_err(PkiError::ServiceAccount)?;
        let authorities: String =
            [&serving].into_iter().chain(&others).map(|set| format!("{}\n", set.authority.trim_end())).collect();
        self.authorities.send_if_modified(|known| {
            let changed = *known != authorities;
            *known = authorities;
            changed
        });
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if !served.by.as_ref().is_some_and(|by| Arc::ptr_eq(by, &serving)) {
            served.by = Some(serving);
            served.show()?;
        }
        Ok(())
    }

    /// Removes every set but these from the disk and the memory.
    fn remove_others(&self, keep: &BTreeSet<Digest>) -> Result<(), PkiError> {
        let gone: Vec<Digest> = self.held().difference(keep).copied().collect();
        for keys in &gone {
            remove(&self.folder.join(format!("{keys}{SET_SUFFIX}")))?;
        }
        let first = read_first(&self.folder)?;
        if first.is_some_and(|(keys, _)| !keep.contains(&keys)) {
            // The sign that all are there goes first.
            for file in [AUTHORITY, AUTHORITY_KEY, SERVICE_ACCOUNTS_KEY] {
                remove(&self.folder.join(file))?;
            }
        }
        if !gone.is_empty() {
            let failed = |source| PkiError::File { doing: "sync", path: self.folder.clone(), source };
            fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
            self.held.write().unwrap_or_else(PoisonError::into_inner).retain(|keys, _| keep.contains(keys));
            tracing::info!(sets = gone.len(), "keys that are not believed any more were removed");
        }
        Ok(())
    }

    fn insert(&self, keys: Digest, set: Bundle) -> Result<(), PkiError> {
        let text = serde_json::to_string(&set).map_err(PkiError::Text)?;
        write_secret(&self.folder.join(format!("{keys}{SET_SUFFIX}")), &text)?;
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(keys, Arc::new(set));
        Ok(())
    }
}

impl Keyring for Pki {
    fn held(&self) -> BTreeSet<Digest> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn make(&self) -> io::Result<Digest> {
        let made = Bundle::make().map_err(io::Error::other)?;
        let keys = made.digest().map_err(io::Error::other)?;
        self.insert(keys, made).map_err(io::Error::other)?;
        Ok(keys)
    }

    fn reveal(&self, keys: &Digest) -> Option<Vec<u8>> {
        serde_json::to_vec(&*self.set(keys)?).ok()
    }

    fn keep(&self, keys: &Digest, secret: &[u8]) -> io::Result<()> {
        let set: Bundle = serde_json::from_slice(secret).map_err(io::Error::other)?;
        set.check().map_err(io::Error::other)?;
        if set.digest().map_err(io::Error::other)? != *keys {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "another member gave other keys than were asked for",
            ));
        }
        self.insert(*keys, set).map_err(io::Error::other)
    }

    fn employ(&self, roles: &Roles<Digest>) -> io::Result<()> {
        self.use_sets(roles).map_err(io::Error::other)?;
        let used = roles.believed.iter().copied().chain([roles.serving, roles.tokens]).collect();
        self.remove_others(&used).map_err(io::Error::other)
    }
}

/// The set that this machine began with.
fn read_first(folder: &Path) -> Result<Option<(Digest, Bundle)>, PkiError> {
    if !folder.join(AUTHORITY).exists() {
        return Ok(None);
    }
    let set = Bundle {
        authority: read(&folder.join(AUTHORITY))?,
        authority_key: read(&folder.join(AUTHORITY_KEY))?,
        service_accounts_key: read(&folder.join(SERVICE_ACCOUNTS_KEY))?,
    };
    Ok(Some((set.digest()?, set)))
}

fn read_sets(folder: &Path) -> Result<BTreeMap<Digest, Arc<Bundle>>, PkiError> {
    let mut held = BTreeMap::new();
    if let Some((keys, set)) = read_first(folder)? {
        set.check()?;
        held.insert(keys, Arc::new(set));
    }
    let failed = |source| PkiError::File { doing: "list", path: folder.to_owned(), source };
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(held),
        Err(error) => return Err(failed(error)),
    };
    for file in files {
        let path = file.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SET_SUFFIX));
        let Some(keys) = name.and_then(|name| Digest::parse(name).ok()) else { continue };
        let set: Bundle = serde_json::from_str(&read(&path)?).map_err(PkiError::Text)?;
        set.check()?;
        if set.digest()? != keys {
            return Err(PkiError::Other { path });
        }
        held.insert(keys, Arc::new(set));
    }
    Ok(held)
}

fn make_authority() -> Result<(KeyPair, Certificate), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make the authority's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, AUTHORITY_YEARS);
    let own = params.self_signed(&key).map_err(certificate("sign the authority's certificate"))?;
    Ok((key, own))
}

/// From yesterday, because clocks differ, for some years.
fn set_validity(params: &mut CertificateParams, years: i16) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let from = today.yesterday().unwrap_or(today);
    let month = |date: jiff::civil::Date| date.month().unsigned_abs();
    // The 28th exists in every month of every year.
    let day = |date: jiff::civil::Date| date.day().unsigned_abs().min(28);
    params.not_before = date_time_ymd(i32::from(from.year()), month(from), day(from));
    params.not_after = date_time_ymd(i32::from(today.year().saturating_add(years)), month(today), day(today));
}

fn make_folder(folder: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { doing: "make the folder", path: folder.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)
}

fn read(path: &Path) -> Result<String, PkiError> {
    let mut text = String::new();
    let file = fs::File::open(path).and_then(|file| file.take(SET_BYTES_MAX).read_to_string(&mut text));
    file.map(|_| text).map_err(|source| PkiError::File { doing: "read", path: path.to_owned(), source })
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PkiError::File { doing: "remove", path: path.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file that is either whole or not there, also after a power cut.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { doing: "write", path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests;
