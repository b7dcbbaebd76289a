//! What Envoy offers to modules, as far as it is used here, behind safe handles that live no longer than a hook's call.

use super::network::Attribute;
use super::{Envoy, EnvoyBuffer, ModuleBuffer};
use std::marker::PhantomData;
use std::os::raw::{c_int, c_void};
use std::ptr;

/// A header, a text of metadata, as Envoy takes them.
#[repr(C)]
pub(super) struct Header {
    key: ModuleBuffer,
    value: ModuleBuffer,
}

offered! {
    fn envoy_dynamic_module_callback_http_get_cluster_name(stream: Envoy, name: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_get_header(stream: Envoy, kind: c_int, key: ModuleBuffer, value: *mut EnvoyBuffer, index: usize, count: *mut usize) -> bool;
    fn envoy_dynamic_module_callback_http_set_header(stream: Envoy, kind: c_int, key: ModuleBuffer, value: ModuleBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_get_buffer_limit(stream: Envoy) -> u64;
    fn envoy_dynamic_module_callback_http_set_buffer_limit(stream: Envoy, bytes: u64);
    fn envoy_dynamic_module_callback_http_get_body_chunks_size(stream: Envoy, body: c_int) -> usize;
    fn envoy_dynamic_module_callback_http_get_body_chunks(stream: Envoy, body: c_int, chunks: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_append_body(stream: Envoy, body: c_int, data: ModuleBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_drain_body(stream: Envoy, body: c_int, bytes: usize) -> bool;
    fn envoy_dynamic_module_callback_http_send_response(stream: Envoy, status: u32, headers: *mut Header, count: usize, body: ModuleBuffer, details: ModuleBuffer);
    fn envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(stream: Envoy, namespace: ModuleBuffer, value: ModuleBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_filter_continue_decoding(stream: Envoy);
    fn envoy_dynamic_module_callback_http_filter_get_attribute_string(stream: Envoy, attribute: c_int, value: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_filter_reset_stream(stream: Envoy, reason: c_int, details: ModuleBuffer);
    fn envoy_dynamic_module_callback_http_filter_scheduler_new(stream: Envoy) -> *mut c_void;
    fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void);
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(config: Envoy) -> *mut c_void;
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(scheduler: *mut c_void, event: u64);
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(scheduler: *mut c_void);
    fn envoy_dynamic_module_callback_http_filter_config_define_counter(config: Envoy, name: ModuleBuffer, labels: *mut ModuleBuffer, count: usize, id: *mut usize) -> c_int;
    fn envoy_dynamic_module_callback_http_filter_config_define_gauge(config: Envoy, name: ModuleBuffer, labels: *mut ModuleBuffer, count: usize, id: *mut usize) -> c_int;
    fn envoy_dynamic_module_callback_http_filter_config_set_gauge(config: Envoy, id: usize, values: *mut ModuleBuffer, count: usize, value: u64) -> c_int;
    fn envoy_dynamic_module_callback_http_filter_config_define_histogram(config: Envoy, name: ModuleBuffer, labels: *mut ModuleBuffer, count: usize, id: *mut usize) -> c_int;
    fn envoy_dynamic_module_callback_http_filter_config_increment_counter(config: Envoy, id: usize, values: *mut ModuleBuffer, count: usize, by: u64) -> c_int;
    fn envoy_dynamic_module_callback_http_filter_config_record_histogram_value(config: Envoy, id: usize, values: *mut ModuleBuffer, count: usize, value: u64) -> c_int;
}

/// Which headers are meant.
#[derive(Clone, Copy)]
pub enum Headers {
    /// Of the request.
    Request = 0,
    /// Of the answer.
    Response = 2,
}

/// Which body is meant: what came with this event, or what is kept from those before.
#[derive(Clone, Copy)]
pub enum Body {
    /// The request's, of this event.
    ReceivedRequest = 0,
    /// The request's, kept.
    BufferedRequest = 1,
    /// The answer's, of this event.
    ReceivedResponse = 2,
}

type Define = unsafe extern "C" fn(Envoy, ModuleBuffer, *mut ModuleBuffer, usize, *mut usize) -> c_int;
type Apply = unsafe extern "C" fn(Envoy, usize, *mut ModuleBuffer, usize, u64) -> c_int;
const MOST_LABELS: usize = 2;

/// A statistic that was defined.
#[derive(Clone, Copy, Debug)]
pub struct Metric(Option<usize>);

/// A filter's configuration, for the time of one hook.
pub struct FilterConfigHandle<'call> {
    envoy: Envoy,
    call: PhantomData<&'call ()>,
}

impl FilterConfigHandle<'_> {
    /// # Safety
    /// `envoy` is the configuration that Envoy passed to the hook now running.
    pub(super) unsafe fn new(envoy: Envoy) -> Self {
        FilterConfigHandle {
            envoy,
            call: PhantomData,
        }
    }

    /// Defines a counter with these labels.
    pub fn counter(&self, name: &str, labels: &[&str]) -> Metric {
        self.define(
            name,
            labels,
            envoy_dynamic_module_callback_http_filter_config_define_counter,
        )
    }

    /// Defines a gauge with these labels.
    pub fn gauge(&self, name: &str, labels: &[&str]) -> Metric {
        self.define(
            name,
            labels,
            envoy_dynamic_module_callback_http_filter_config_define_gauge,
        )
    }

    /// Defines a histogram with these labels.
    pub fn histogram(&self, name: &str, labels: &[&str]) -> Metric {
        self.define(
            name,
            labels,
            envoy_dynamic_module_callback_http_filter_config_define_histogram,
        )
    }

    /// Adds to a counter.
    pub fn count(&self, metric: Metric, labels: &[&str], by: u64) {
        self.apply(
            metric,
            labels,
            by,
            envoy_dynamic_module_callback_http_filter_config_increment_counter,
        );
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, labels: &[&str], value: u64) {
        self.apply(
            metric,
            labels,
            value,
            envoy_dynamic_module_callback_http_filter_config_set_gauge,
        );
    }

    /// Records a value in a histogram.
    pub fn record(&self, metric: Metric, labels: &[&str], value: u64) {
        self.apply(
            metric,
            labels,
            value,
            envoy_dynamic_module_callback_http_filter_config_record_histogram_value,
        );
    }

    fn apply(&self, metric: Metric, labels: &[&str], value: u64, apply: Apply) {
        if let Metric(Some(id)) = metric {
            let mut values = [ModuleBuffer::NOTHING; MOST_LABELS];
            let count = labels.len().min(MOST_LABELS);
            for (place, label) in values.iter_mut().zip(labels) {
                *place = ModuleBuffer::of(label.as_bytes());
            }
            // SAFETY: `apply` is one of Envoy's; the configuration is alive and defined the metric;
            // Envoy copies the labels.
            let _ = unsafe { apply(self.envoy, id, values.as_mut_ptr(), count, value) };
        }
    }

    /// A handle by which other threads can wake this configuration, on the main thread.
    pub fn waker(&self) -> ConfigWaker {
        // SAFETY: the configuration is alive.
        ConfigWaker(unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_new(self.envoy) })
    }

    fn define(&self, name: &str, labels: &[&str], define: Define) -> Metric {
        let mut labels: Vec<ModuleBuffer> = labels.iter().map(|label| ModuleBuffer::of(label.as_bytes())).collect();
        let mut id = 0;
        // SAFETY: `define` is one of Envoy's; all buffers live during the call, and Envoy copies them.
        let result = unsafe {
            let name = ModuleBuffer::of(name.as_bytes());
            define(self.envoy, name, labels.as_mut_ptr(), labels.len(), &mut id)
        };
        Metric(if result == 0 { Some(id) } else { None })
    }
}

/// A stream, for the time of one hook.
#[derive(Clone, Copy)]
pub struct Stream<'call> {
    pub(super) envoy: Envoy,
    call: PhantomData<&'call ()>,
}

impl<'call> Stream<'call> {
    /// # Safety
    /// `envoy` is the filter that Envoy passed to the hook now running.
    pub(super) unsafe fn new(envoy: Envoy) -> Self {
        Stream {
            envoy,
            call: PhantomData,
        }
    }

    /// Copies what `ask` puts into a buffer.
    pub(super) fn copied(&self, ask: impl FnOnce(*mut EnvoyBuffer) -> bool) -> Option<Vec<u8>> {
        let mut buffer = EnvoyBuffer::EMPTY;
        if !ask(&mut buffer) {
            return None;
        }
        // SAFETY: Envoy filled the buffer in this hook, nothing was called since, and the bytes are copied at once.
        Some(unsafe { buffer.bytes() }.to_vec())
    }

    /// The cluster that the request's route names.
    pub fn cluster(&self) -> Option<String> {
        // SAFETY: the stream is alive, the buffer is ours.
        let name =
            self.copied(|name| unsafe { envoy_dynamic_module_callback_http_get_cluster_name(self.envoy, name) })?;
        String::from_utf8(name).ok()
    }

    /// The first value of a header (name in lower case).
    pub fn header(&self, kind: Headers, name: &str) -> Option<Vec<u8>> {
        let key = ModuleBuffer::of(name.as_bytes());
        // SAFETY: the stream is alive, the buffers live during the call, a null count is allowed.
        self.copied(|value| unsafe {
            envoy_dynamic_module_callback_http_get_header(self.envoy, kind as c_int, key, value, 0, ptr::null_mut())
        })
    }

    /// Calls `read` with the first value of a header (name in lower case), which must not call Envoy.
    pub fn read_header<R>(&self, kind: Headers, name: &str, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let key = ModuleBuffer::of(name.as_bytes());
        let mut value = EnvoyBuffer::EMPTY;
        // SAFETY: the stream is alive, the buffers live during the call, a null count is allowed; Envoy filled the buffer
        // in this hook, and nothing is called while `read` looks at it.
        unsafe {
            let there = envoy_dynamic_module_callback_http_get_header(
                self.envoy,
                kind as c_int,
                key,
                &mut value,
                0,
                ptr::null_mut(),
            );
            if there {
                Some(read(value.bytes()))
            } else {
                None
            }
        }
    }

    /// Sets a header, or removes it.
    pub fn set_header(&self, kind: Headers, name: &str, value: Option<&[u8]>) {
        let value = value.map_or(ModuleBuffer::NOTHING, ModuleBuffer::of);
        // SAFETY: the stream is alive, Envoy copies key and value.
        let _ = unsafe {
            envoy_dynamic_module_callback_http_set_header(
                self.envoy,
                kind as c_int,
                ModuleBuffer::of(name.as_bytes()),
                value,
            )
        };
    }

    /// Makes sure that so many bytes of the request can be kept.
    pub fn allow_buffering(&self, bytes: u64) {
        // SAFETY: the stream is alive.
        unsafe {
            if envoy_dynamic_module_callback_http_get_buffer_limit(self.envoy) < bytes {
                envoy_dynamic_module_callback_http_set_buffer_limit(self.envoy, bytes);
            }
        }
    }

    /// Shows the pieces of a body to `look`, which must not call Envoy (it gets no handle).
    pub fn body<R>(&self, body: Body, look: impl FnOnce(Pieces<'_>) -> R) -> R {
        // SAFETY: the stream is alive; the vector has room for as many pieces as Envoy says there are; the pieces are
        // valid until the body is changed, which cannot happen before `look` returns.
        unsafe {
            let count = envoy_dynamic_module_callback_http_get_body_chunks_size(self.envoy, body as c_int);
            if count <= FEW {
                let mut few = [EnvoyBuffer::EMPTY; FEW];
                return look(pieces_of(self.envoy, body, &mut few[..count]));
            }
            let mut many = vec![EnvoyBuffer::EMPTY; count];
            look(pieces_of(self.envoy, body, &mut many))
        }
    }

    /// Replaces a body.
    pub fn replace_body(&self, body: Body, bytes: &[u8]) {
        // SAFETY: the stream is alive, Envoy copies the bytes.
        unsafe {
            let _ = envoy_dynamic_module_callback_http_drain_body(self.envoy, body as c_int, usize::MAX);
            if !bytes.is_empty() {
                let data = ModuleBuffer::of(bytes);
                let _ = envoy_dynamic_module_callback_http_append_body(self.envoy, body as c_int, data);
            }
        }
    }

    /// Answers in the server's stead.
    pub fn respond(&self, status: u32, headers: &[(&str, &str)], body: &[u8], details: &str) {
        let mut headers = pairs(headers);
        // SAFETY: the stream is alive, Envoy copies everything during the call.
        unsafe {
            envoy_dynamic_module_callback_http_send_response(
                self.envoy,
                status,
                headers.as_mut_ptr(),
                headers.len(),
                ModuleBuffer::of(body),
                ModuleBuffer::of(details.as_bytes()),
            );
        }
    }

    /// Writes a `google.protobuf.Struct` (its bytes) into the stream's dynamic metadata, for access logs.
    pub fn set_metadata(&self, namespace: &str, value: &[u8]) {
        // SAFETY: the stream is alive, Envoy copies everything during the call.
        let _ = unsafe {
            envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(
                self.envoy,
                ModuleBuffer::of(namespace.as_bytes()),
                ModuleBuffer::of(value),
            )
        };
    }

    /// Lets a held request go on.
    pub fn continue_request(&self) {
        // SAFETY: the stream is alive.
        unsafe { envoy_dynamic_module_callback_http_filter_continue_decoding(self.envoy) }
    }

    /// Breaks the stream.
    pub fn reset(&self, details: &str) {
        let details = ModuleBuffer::of(details.as_bytes());
        // SAFETY: the stream is alive, Envoy copies the text. 0: a reset by this side.
        unsafe { envoy_dynamic_module_callback_http_filter_reset_stream(self.envoy, 0, details) }
    }

    /// URI names in the certificate of the endpoint that serves this request, with commas between.
    pub fn upstream_uris(&self) -> Option<Vec<u8>> {
        self.attribute(Attribute::UpstreamUris)
    }

    /// SHA-256 of the certificate of the endpoint that serves this request, hex.
    pub fn upstream_digest(&self) -> Option<Vec<u8>> {
        self.attribute(Attribute::UpstreamDigest)
    }

    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>> {
        // SAFETY: the stream is alive.
        self.copied(|value| unsafe {
            envoy_dynamic_module_callback_http_filter_get_attribute_string(self.envoy, attribute as c_int, value)
        })
    }

    /// A handle by which other threads can wake this stream.
    pub fn waker(&self) -> Waker {
        // SAFETY: the stream is alive.
        Waker(unsafe { envoy_dynamic_module_callback_http_filter_scheduler_new(self.envoy) })
    }
}

/// A body has so many pieces that room for them is asked of the allocator.
const FEW: usize = 8;

/// The pieces of a body.
#[derive(Clone, Copy)]
pub struct Pieces<'call>(&'call [EnvoyBuffer]);

impl<'call> Pieces<'call> {
    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = &'call [u8]> {
        // SAFETY: they exist only while Envoy lends the bytes (`Stream::body`).
        self.0.iter().map(|buffer| unsafe { buffer.bytes() })
    }

    /// Bytes in all.
    pub fn bytes(self) -> usize {
        self.0.iter().map(|buffer| buffer.length).sum()
    }
}

/// # Safety
/// `stream` is alive, the body is not changed before the answer is dropped, and has as many pieces as `room` has places.
unsafe fn pieces_of(stream: Envoy, body: Body, room: &mut [EnvoyBuffer]) -> Pieces<'_> {
    // SAFETY: as promised by the caller.
    let there = !room.is_empty()
        && unsafe { envoy_dynamic_module_callback_http_get_body_chunks(stream, body as c_int, room.as_mut_ptr()) };
    Pieces(if there { room } else { &[] })
}

pub(super) fn pairs(texts: &[(&str, &str)]) -> Vec<Header> {
    let buffer = |text: &str| ModuleBuffer::of(text.as_bytes());
    texts
        .iter()
        .map(|(key, value)| Header {
            key: buffer(key),
            value: buffer(value),
        })
        .collect()
}

/// Wakes a stream from any thread, on the stream's own; does nothing once the stream is gone.
#[derive(Debug)]
pub struct Waker(*mut c_void);

// SAFETY: Envoy's scheduler objects are made for other threads: `commit` posts to the worker and holds the stream weakly.
unsafe impl Send for Waker {}
// SAFETY: as above; `commit` may be called from several threads at once.
unsafe impl Sync for Waker {}

impl Waker {
    /// Has Envoy call the `scheduled` hook of the stream with this event.
    pub fn wake(&self, event: u64) {
        if !self.0.is_null() {
            // SAFETY: the scheduler lives until `drop`.
            unsafe { envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0, event) }
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by `scheduler_new`, deleted exactly once.
            unsafe { envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0) }
        }
    }
}

/// Wakes a filter's configuration from any thread, on the main thread; does nothing once it is gone.
#[derive(Debug)]
pub struct ConfigWaker(*mut c_void);

// SAFETY: as for `Waker`.
unsafe impl Send for ConfigWaker {}
// SAFETY: as for `Waker`.
unsafe impl Sync for ConfigWaker {}

impl ConfigWaker {
    /// Has Envoy call the `config_scheduled` hook.
    pub fn wake(&self) {
        if !self.0.is_null() {
            // SAFETY: the scheduler lives until `drop`.
            unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_commit(self.0, 0) }
        }
    }
}

impl Drop for ConfigWaker {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by `scheduler_new`, deleted exactly once.
            unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_delete(self.0) }
        }
    }
}
