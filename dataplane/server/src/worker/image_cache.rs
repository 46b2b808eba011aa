//! Images on the server's disk, named by the hash of their contents, and what is known of their kernels.
//!
//! All workers of a daemon share the folder. It has a folder for each *tenant*, whose name and key come from the
//! token that the client showed, or else from who it is (`daemon/front.rs`): whether an image is there tells what
//! somebody has loaded, so only the same tenant can ask. Nothing in it is believed. An image is what its name says
//! when it hashes to that, and what is known of kernels is authenticated with the tenant's key; anything else is
//! deleted and counts as not there.
//!
//! Files come by renaming, so none is ever half there, and go by age of last use when the folder has grown beyond
//! its bound; what is not the cache's is left alone. Reading is done at once, since a load waits for it. Writing and
//! deleting are done on a thread of their own ([`super::file_work`]): a disk may be slow or full, which costs the
//! next start and nothing now. No error here is ever the client's to see.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use fusewire_wire::digest::Digest;
use fusewire_wire::ops::known::{Known, MAX_KNOWN};

use super::file_work::FileWork;
use super::images::Image;

/// A file that is being written this long after its beginning never will be.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Bytes of what is known of one image's kernels, at most.
const MAX_FACTS_BYTES: u64 = 8 << 20;
/// Bytes that may wait to be written. What finds no room is kept the next time.
const MAX_UNWRITTEN: u64 = 1 << 30;
/// How long a session's end waits for what is still being written.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Hexadecimal digits in a tenant's folder's name, and at the beginning of a file's.
const FOLDER_DIGITS: usize = 32;
const FILE_DIGITS: usize = 64;

/// What is known of an image from loading it before.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Its code may print.
    pub(super) prints: bool,
    /// Kernels that programs have asked for.
    pub(super) kernels: Vec<Known>,
}

impl Facts {
    /// Bytes of memory, about.
    fn weight(&self) -> u64 {
        let of = |known: &Known| size_of::<Known>() + known.name.len() + size_of_val(&known.parameters[..]);
        self.kernels.iter().map(|known| of(known) as u64).sum()
    }
}

/// See the module's comment.
#[derive(Debug)]
pub(super) struct ImageCache {
    folder: Arc<Folder>,
    /// Bytes that all files together may have.
    limit: u64,
    /// What of a device its kernels' attributes depend on, by ordinal.
    kinds: Vec<String>,
    files: FileWork,
}

/// A tenant's files.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    key: [u8; 32],
}

impl ImageCache {
    /// The cache of the tenant with this key, in `root`. `kinds`: see [`device_kind`]. Called before the shard has
    /// a core to itself, which the thread that writes would otherwise have, too.
    pub(super) fn open(root: &Path, limit: u64, key: [u8; 32], kinds: Vec<String>) -> io::Result<Self> {
        // The name gives nothing away of the key.
        let name = Digest::keyed(&key, b"folder").to_string();
        let path = root.join(name.get(..FOLDER_DIGITS).unwrap_or_default());
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let root = root.to_owned();
        let files = FileWork::start(MAX_UNWRITTEN, move || trim(&root, limit))?;
        Ok(Self { folder: Arc::new(Folder { path, key }), limit, kinds, files })
    }

    /// The image of this digest and length.
    pub(super) fn get(&self, digest: &Digest, bytes: u64) -> Option<Vec<u8>> {
        let path = self.folder.path.join(digest.to_string());
        let data = read(&path, bytes)?;
        if data.len() as u64 == bytes && Digest::of(&data) == *digest {
            return Some(data);
        }
        // Best effort: the next worker to read it will find the same.
        let _ = fs::remove_file(&path);
        None
    }

    /// Keeps an image, whose digest was checked.
    pub(super) fn put(&self, digest: Digest, image: &Arc<Image>) {
        let bytes = image.contents().len() as u64;
        if bytes > self.limit {
            return;
        }
        let (image, folder) = (Arc::clone(image), Arc::clone(&self.folder));
        self.files.give(bytes, move || {
            let written = write(&folder.path, &digest.to_string(), &[image.contents()]);
            // What cannot be kept is sent again.
            written.map_or(0, |()| bytes)
        });
    }

    /// What is known of an image on this device and its like.
    pub(super) fn facts(&self, digest: &Digest, device: i32) -> Option<Facts> {
        self.folder.facts(&self.facts_name(digest, device)?)
    }

    fn facts_name(&self, digest: &Digest, device: i32) -> Option<String> {
        let kind = self.kinds.get(usize::try_from(device).ok()?)?;
        Some(format!("{digest}-{kind}"))
    }

    /// Keeps what is known of an image, with what others have found out meanwhile.
    pub(super) fn put_facts(&self, digest: &Digest, device: i32, facts: Facts) {
        let Some(name) = self.facts_name(digest, device) else { return };
        let folder = Arc::clone(&self.folder);
        // What cannot be kept is found out again.
        self.files.give(facts.weight(), move || folder.put_facts(&name, facts).unwrap_or(0));
    }

    /// Waits a little for what is still being written.
    pub(super) fn finish(&self) {
        self.files.finish(LAST_WRITES);
    }
}

impl Folder {
    fn facts(&self, name: &str) -> Option<Facts> {
        let path = self.path.join(name);
        let data = read(&path, MAX_FACTS_BYTES)?;
        let facts = self.authentic(name, &data).and_then(|list| {
            let (flags, list) = list.split_first_chunk::<8>()?;
            let prints = u64::from_le_bytes(*flags) & 1 != 0;
            Some(Facts { prints, kernels: Known::read_list(list)? })
        });
        if facts.is_none() {
            let _ = fs::remove_file(&path);
        }
        facts
    }

    fn authentic<'a>(&self, name: &str, data: &'a [u8]) -> Option<&'a [u8]> {
        let (seal, rest) = data.split_first_chunk::<32>()?;
        (self.seal(name, rest).0 == *seal).then_some(rest)
    }

    fn seal(&self, name: &str, contents: &[u8]) -> Digest {
        let mut named = name.as_bytes().to_vec();
        named.extend_from_slice(contents);
        Digest::keyed(&self.key, &named)
    }

    /// Gives the bytes that were written.
    fn put_facts(&self, name: &str, facts: Facts) -> io::Result<u64> {
        let Facts { prints, mut kernels } = facts;
        for other in self.facts(name).unwrap_or_default().kernels {
            if kernels.iter().all(|known| known.name != other.name) {
                kernels.push(other);
            }
        }
        kernels.truncate(MAX_KNOWN);
        let mut contents = u64::from(prints).to_le_bytes().to_vec();
        for known in &kernels {
            known.append(&mut contents);
        }
        let bytes = contents.len() as u64 + 32;
        if bytes > MAX_FACTS_BYTES {
            return Ok(0);
        }
        write(&self.path, name, &[&self.seal(name, &contents).0, &contents]).map(|()| bytes)
    }
}

/// What the attributes of a kernel depend on besides its image: the driver's version and the device's name.
pub(super) fn device_kind(driver_version: i32, device: &[u8]) -> String {
    let mut about = driver_version.to_le_bytes().to_vec();
    about.extend_from_slice(device);
    Digest::of(&about).to_string().get(..16).unwrap_or_default().to_owned()
}

/// A file's contents, unless there are more than `most` bytes. The file counts as used now.
fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let about = file.metadata().ok()?;
    if !about.is_file() || about.len() > most {
        return None;
    }
    // With room for the zeros that follow an image.
    let mut data = Vec::with_capacity(usize::try_from(about.len()).ok()? + 8);
    (&mut file).take(most).read_to_end(&mut data).ok()?;
    // Its age decides what goes first; a file that cannot be touched goes a little early.
    let _ = file.set_modified(SystemTime::now());
    Some(data)
}

fn write(folder: &Path, name: &str, pieces: &[&[u8]]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let unique = format!("{name}.{}.{}.new", std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let path = folder.join(unique);
    let written = (|| {
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        pieces.iter().try_for_each(|piece| file.write_all(piece))?;
        fs::rename(&path, folder.join(name))
    })();
    if written.is_err() {
        // Half a file is of no use to anybody.
        let _ = fs::remove_file(&path);
    }
    written
}

/// Deletes the files that were not used for longest until the rest is within `limit`. Several workers may do so
/// at once: a file that is gone already is as good as deleted. Whatever else somebody keeps in the folder does not
/// count, and stays.
fn trim(root: &Path, limit: u64) {
    // A link to a folder is not one.
    let is_folder = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let tenants =
        entries(root).filter(|entry| is_ours(entry, FOLDER_DIGITS, Some(FOLDER_DIGITS)) && is_folder(entry));
    let files = tenants.flat_map(|tenant| entries(&tenant.path()));
    let mut found = Vec::new();
    let mut total = 0_u64;
    for file in files.filter(|entry| is_ours(entry, FILE_DIGITS, None) && !is_folder(entry)) {
        // Not followed if it is a link.
        let Ok(about) = file.metadata() else { continue };
        let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let unfinished = file.path().extension().is_some_and(|extension| extension == "new");
        if unfinished && used.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(file.path());
        } else {
            total += about.blocks() * 512;
            found.push((used, about.blocks() * 512, file.path()));
        }
    }
    found.sort();
    for (_, bytes, path) in found {
        if total <= limit {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

/// Whether a name is of those that the cache gives: as many hexadecimal digits, and nothing more if `length` says so.
fn is_ours(entry: &DirEntry, digits: usize, length: Option<usize>) -> bool {
    let name = entry.file_name();
    let name = name.as_encoded_bytes();
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.get(..digits).is_some_and(|begin| begin.iter().all(hex))
        && length.is_none_or(|length| length == name.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_wire::ops::table::FunctionInfo;

    struct Root(PathBuf);

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Root {
        let path = std::env::temp_dir().join(format!("fusewire-images-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Root(path)
    }

    fn open(at: &Root, limit: u64, key: [u8; 32]) -> ImageCache {
        ImageCache::open(&at.0, limit, key, vec!["a".into(), "b".into()]).unwrap()
    }

    fn image(byte: u8, bytes: usize) -> (Digest, Arc<Image>) {
        let data = vec![byte; bytes];
        (Digest::of(&data), Arc::new(Image::new(data)))
    }

    fn has(cache: &ImageCache, digest: &Digest, bytes: u64) -> bool {
        cache.get(digest, bytes).is_some()
    }

    #[test]
    fn an_image_is_found_by_its_tenant_only() {
        let at = folder("tenants");
        let one = open(&at, 1 << 30, [1; 32]);
        let (digest, data) = image(7, 5000);
        assert!(!has(&one, &digest, 5000));
        one.put(digest, &data);
        one.finish();
        assert_eq!(one.get(&digest, 5000).unwrap(), vec![7; 5000]);
        assert!(!has(&one, &digest, 4999), "of another length");
        let again = open(&at, 1 << 30, [1; 32]);
        assert!(has(&again, &digest, 5000), "another worker of the tenant");
        let two = open(&at, 1 << 30, [2; 32]);
        assert!(!has(&two, &digest, 5000), "another tenant");
    }

    #[test]
    fn a_changed_file_is_not_believed() {
        let at = folder("changed");
        let cache = open(&at, 1 << 30, [1; 32]);
        let (digest, data) = image(7, 5000);
        let path = cache.folder.path.join(digest.to_string());
        for damage in [vec![8; 5000], vec![7; 4000], Vec::new()] {
            cache.put(digest, &data);
            cache.finish();
            fs::write(&path, damage).unwrap();
            assert!(!has(&cache, &digest, 5000));
            assert!(!path.exists(), "what is wrong goes");
        }
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(!has(&cache, &digest, 5000));
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let at = folder("bound");
        let size = 64 << 10;
        let cache = open(&at, 3 * size as u64, [1; 32]);
        let images: Vec<_> = (0..4).map(|byte| image(byte, size)).collect();
        for (digest, data) in &images[..3] {
            cache.put(*digest, data);
            cache.finish();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(has(&cache, &images[0].0, size as u64), "and is used now");
        cache.put(images[3].0, &images[3].1);
        cache.finish();
        let left: Vec<bool> = images.iter().map(|(digest, _)| has(&cache, digest, size as u64)).collect();
        assert_eq!(left, [true, false, true, true]);
        let (digest, data) = image(9, 4 * size);
        cache.put(digest, &data);
        cache.finish();
        assert!(!has(&cache, &digest, 4 * size as u64), "larger than the whole cache");
        assert!(has(&cache, &images[0].0, size as u64), "and nothing went for it");
    }

    #[test]
    fn facts_count_and_what_is_not_the_caches_stays() {
        let at = folder("foreign");
        let cache = open(&at, 8 << 10, [1; 32]);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let foreign = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![1; 64 << 10]).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            path
        };
        let digits = "0123456789abcdef".repeat(4);
        let kept = [
            foreign(at.0.join("notes")),
            foreign(at.0.join(&digits)),
            foreign(at.0.join("photos").join(&digits)),
            // A tenant's folder has 32 digits, and nothing else.
            foreign(at.0.join(&digits[..33]).join(&digits)),
            foreign(at.0.join(digits[..32].to_uppercase()).join(&digits)),
            foreign(cache.folder.path.join("notes")),
            foreign(cache.folder.path.join(&digits[..63])),
        ];
        let goes = [
            foreign(at.0.join(&digits[..32]).join(&digits)),
            foreign(cache.folder.path.join(format!("{digits}-of-another-kind"))),
        ];
        let known = Known { name: vec![b'k'; 100], info: FunctionInfo::default(), parameters: Vec::new() };
        cache.put_facts(&Digest::of(b"image"), 0, Facts { prints: false, kernels: vec![known] });
        cache.finish();
        for path in kept {
            assert!(path.exists(), "{}", path.display());
        }
        for path in goes {
            assert!(!path.exists(), "{}", path.display());
        }
        assert!(cache.facts(&Digest::of(b"image"), 0).is_some());
    }

    #[test]
    fn what_is_known_grows_and_is_the_tenants_own() {
        let at = folder("facts");
        let cache = open(&at, 1 << 30, [1; 32]);
        let digest = Digest::of(b"image");
        let known = |name: &str| Known {
            name: name.into(),
            info: FunctionInfo { max_threads: 640, ..FunctionInfo::default() },
            parameters: Vec::new(),
        };
        assert!(cache.facts(&digest, 0).is_none());
        for name in ["add", "mul", "add"] {
            cache.put_facts(&digest, 0, Facts { prints: true, kernels: vec![known(name)] });
            cache.finish();
        }
        let facts = cache.facts(&digest, 0).unwrap();
        let mut names: Vec<_> = facts.kernels.iter().map(|known| known.name.clone()).collect();
        names.sort();
        assert_eq!(names, [b"add".to_vec(), b"mul".to_vec()]);
        assert!(facts.prints && facts.kernels.iter().all(|known| known.info.max_threads == 640));
        assert!(cache.facts(&digest, 1).is_none(), "of another kind of device");

        // What another tenant, or anybody, put there is not believed.
        let path = cache.folder.path.join(cache.facts_name(&digest, 0).unwrap());
        let mut data = fs::read(&path).unwrap();
        *data.last_mut().unwrap() ^= 1;
        fs::write(&path, &data).unwrap();
        assert!(cache.facts(&digest, 0).is_none());
        assert!(!path.exists());
    }
}
