mod evidence;
mod fake_guest;
mod framing;
mod freshness;
mod requests;
