//! Device memory: allocations with gaps between them, freed addresses that are never given out again, and for each
//! byte whether anybody wrote it.

use super::{GLOBAL_BASE, bytes::Bytes};
use crate::error::MemoryError;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

/// Bytes between two allocations that belong to neither.
const RED_ZONE: u64 = 4096;

/// Alignment of every allocation, as `cuMemAlloc` has it.
const ALIGN: u64 = 512;

/// One allocation.
#[derive(Debug)]
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// The kernel may not write here.
    pub read_only: bool,
    /// What the bytes are.
    pub data: Bytes,
    /// 1 for each byte that was written.
    pub written: Bytes,
    all_written: AtomicBool,
    freed: AtomicBool,
}

impl Allocation {
    /// Whether all of `size` (1, 2, 4 or 8) bytes at an aligned offset were written.
    #[inline(always)]
    pub fn is_written(&self, offset: usize, size: usize) -> bool {
        self.all_written.load(Relaxed) || {
            let ones = 0x0101_0101_0101_0101u64 & (u64::MAX >> (64 - 8 * size as u32));
            self.written.load(offset, size) == ones
        }
    }

    /// Marks bytes as written.
    #[inline(always)]
    pub fn mark(&self, offset: usize, size: usize) {
        if !self.all_written.load(Relaxed) {
            self.written.store(offset, size, 0x0101_0101_0101_0101);
        }
    }

    /// Writes bytes and marks them as written.
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        self.data.write(offset, bytes);
        self.mark_range(offset as u64, bytes.len() as u64);
    }

    /// Whether it was freed (a running kernel may still hold it).
    #[inline(always)]
    pub fn is_freed(&self) -> bool {
        self.freed.load(Relaxed)
    }

    fn mark_range(&self, offset: u64, len: u64) {
        if offset == 0 && len == self.bytes {
            self.all_written.store(true, Relaxed);
        } else if !self.all_written.load(Relaxed) {
            self.written.fill(offset as usize, len as usize, 1);
        }
    }
}

#[derive(Default, Debug)]
struct Table {
    live: Arc<Vec<Arc<Allocation>>>,
    freed: BTreeMap<u64, u64>,
    next: u64,
    used: u64,
}

/// The memory of a device. All methods may be called from any thread, also while kernels run.
#[derive(Debug)]
pub struct GlobalMemory {
    table: RwLock<Table>,
    capacity: u64,
}

impl GlobalMemory {
    /// Memory of `capacity` bytes, nothing allocated.
    pub fn new(capacity: u64) -> GlobalMemory {
        GlobalMemory { table: RwLock::new(Table { next: GLOBAL_BASE, ..Table::default() }), capacity }
    }

    fn read_table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write_table(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Allocates `bytes` (at least 1), uninitialised, aligned to 512. Returns the device address.
    ///
    /// # Errors
    /// When the modelled GPU or this machine has no room.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.alloc_with(bytes, false)
    }

    /// Allocates memory that kernels may only read.
    ///
    /// # Errors
    /// As [`GlobalMemory::alloc`].
    pub fn alloc_with(&self, bytes: u64, read_only: bool) -> Result<u64, MemoryError> {
        let bytes = bytes.max(1);
        let mut table = self.write_table();
        let none =
            MemoryError::OutOfMemory { asked: bytes, free: self.capacity - table.used, total: self.capacity };
        if bytes > self.capacity - table.used {
            return Err(none);
        }
        let (Some(data), Some(written)) = (Bytes::new(bytes as usize), Bytes::new(bytes as usize)) else {
            return Err(none);
        };
        let base = table.next;
        table.next = (base + bytes + RED_ZONE).next_multiple_of(ALIGN);
        table.used += bytes;
        let new = Allocation {
            base,
            bytes,
            read_only,
            data,
            written,
            all_written: AtomicBool::new(false),
            freed: AtomicBool::new(false),
        };
        Arc::make_mut(&mut table.live).push(Arc::new(new));
        Ok(base)
    }

    /// Frees an allocation by its first address. Its addresses are never used again.
    ///
    /// # Errors
    /// When it is not the start of a live allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.write_table();
        let Ok(at) = table.live.binary_search_by_key(&address, |a| a.base) else {
            drop(table);
            return Err(MemoryError::NotAllocated { address, what: self.describe(address) });
        };
        let gone = Arc::make_mut(&mut table.live).remove(at);
        gone.freed.store(true, Relaxed);
        table.used -= gone.bytes;
        table.freed.insert(gone.base, gone.bytes);
        Ok(())
    }

    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        (self.capacity - self.read_table().used, self.capacity)
    }

    /// All live allocations, by address.
    pub fn snapshot(&self) -> Arc<Vec<Arc<Allocation>>> {
        self.read_table().live.clone()
    }

    /// The live allocation that holds `address`: its first address and size.
    pub fn range_of(&self, address: u64) -> Option<(u64, u64)> {
        find(&self.read_table().live, address).map(|a| (a.base, a.bytes))
    }

    /// A copy is refused unless the range lies in one live allocation.
    fn range(&self, address: u64, len: u64) -> Result<(Arc<Allocation>, usize), MemoryError> {
        let found = find(&self.read_table().live, address)
            .filter(|a| len <= a.bytes - (address - a.base))
            .map(|a| (a.clone(), (address - a.base) as usize));
        found.ok_or_else(|| MemoryError::OutOfBounds { address, len, what: self.describe(address) })
    }

    /// Host write.
    ///
    /// # Errors
    /// When the range is not inside one live allocation.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (a, offset) = self.range(address, data.len() as u64)?;
        a.data.write(offset, data);
        a.mark_range(offset as u64, data.len() as u64);
        Ok(())
    }

    /// Host read; bytes nobody wrote read as they are (zero).
    ///
    /// # Errors
    /// As [`GlobalMemory::write`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (a, offset) = self.range(address, out.len() as u64)?;
        a.data.read(offset, out);
        Ok(())
    }

    /// Sets a range to one byte, as `cuMemsetD8`.
    ///
    /// # Errors
    /// As [`GlobalMemory::write`].
    pub fn fill(&self, address: u64, len: u64, value: u8) -> Result<(), MemoryError> {
        let (a, offset) = self.range(address, len)?;
        a.data.fill(offset, len as usize, value);
        a.mark_range(offset as u64, len);
        Ok(())
    }

    /// Counts a fresh allocation, which is zero, as written.
    pub(crate) fn zero(&self, address: u64) {
        if let Some(a) = find(&self.read_table().live, address) {
            a.all_written.store(true, Relaxed);
        }
    }

    /// Device-to-device copy; what was not initialised stays so.
    ///
    /// # Errors
    /// As [`GlobalMemory::write`], for either range.
    pub fn copy(&self, to: u64, from: u64, len: u64) -> Result<(), MemoryError> {
        let (a, at) = self.range(to, len)?;
        let (b, bt) = self.range(from, len)?;
        let len = len as usize;
        let mut chunk = vec![0; len.min(1 << 16)];
        for done in (0..len).step_by(1 << 16) {
            let part = &mut chunk[..(len - done).min(1 << 16)];
            b.data.read(bt + done, part);
            a.data.write(at + done, part);
            if b.all_written.load(Relaxed) {
                part.fill(1);
            } else {
                b.written.read(bt + done, part);
            }
            if !a.all_written.load(Relaxed) {
                a.written.write(at + done, part);
            }
        }
        Ok(())
    }

    /// The first byte of the range that nobody wrote, if any.
    ///
    /// # Errors
    /// As [`GlobalMemory::write`].
    pub fn first_unwritten(&self, address: u64, len: u64) -> Result<Option<u64>, MemoryError> {
        let (a, offset) = self.range(address, len)?;
        if a.all_written.load(Relaxed) {
            return Ok(None);
        }
        Ok((0..len).find(|k| !a.is_written(offset + *k as usize, 1)).map(|k| address + k))
    }

    /// Whether an address lies in an allocation that was freed.
    pub fn was_freed(&self, address: u64) -> bool {
        let table = self.read_table();
        table.freed.range(..=address).next_back().is_some_and(|(base, bytes)| address - base < *bytes)
    }

    /// Says in words what lies at an address.
    pub fn describe(&self, address: u64) -> String {
        let table = self.read_table();
        if address < 4096 {
            return "the null page".into();
        }
        if let Some((base, bytes)) = table.freed.range(..=address).next_back()
            && address - base < *bytes
        {
            return format!("byte {} of {bytes} freed ones at {base:#x}", address - base);
        }
        if let Some(a) = find(&table.live, address) {
            return format!("byte {} of {} at {:#x}", address - a.base, a.bytes, a.base);
        }
        let at = table.live.partition_point(|a| a.base <= address);
        let before = at.checked_sub(1).map(|k| &table.live[k]);
        let after = table.live.get(at);
        match (before, after) {
            (Some(a), _) if address - (a.base + a.bytes) < RED_ZONE => {
                format!(
                    "{} bytes past the end of {} bytes at {:#x}",
                    address - a.base - a.bytes,
                    a.bytes,
                    a.base
                )
            }
            (_, Some(a)) if a.base - address < RED_ZONE => {
                format!("{} bytes before {} bytes at {:#x}", a.base - address, a.bytes, a.base)
            }
            _ => "far from any allocation".into(),
        }
    }
}

/// The allocation that holds an address.
#[inline]
pub fn find(live: &[Arc<Allocation>], address: u64) -> Option<&Arc<Allocation>> {
    let at = live.partition_point(|a| a.base <= address).checked_sub(1)?;
    live.get(at).filter(|a| address - a.base < a.bytes)
}
