//! Machine code of guests that need no kernel. They start in long mode at their first byte.

/// Code that counts down from `iterations` and then writes to port 0x10:
/// `mov ecx, iterations; 1: dec ecx; jnz 1b; out 0x10, al`.
pub fn counting_loop(iterations: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(iterations.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10]);
    code
}

/// Code that writes one byte to each of `pages` pages from the guest-physical address `first_page` on,
/// writes to the checkpoint port and halts for good.
pub fn page_writer(first_page: u32, pages: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0xc7]; // mov rdi, first_page
    code.extend(first_page.to_le_bytes());
    code.extend([0x48, 0xc7, 0xc1]); // mov rcx, pages
    code.extend(pages.to_le_bytes());
    code.extend([0xb0, 0x01]); // mov al, 1
    code.extend([0x48, 0x85, 0xc9]); // test rcx, rcx
    code.extend([0x74, 0x0e]); // jz 2f
    code.extend([0x88, 0x07]); // 1: mov [rdi], al
    code.extend([0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add rdi, 4096
    code.extend([0x48, 0xff, 0xc9]); // dec rcx
    code.extend([0x75, 0xf2]); // jnz 1b
    code.extend([0xe6, 0x80]); // 2: out 0x80, al
    code.extend([0xfa, 0xf4, 0xeb, 0xfc]); // 3: cli; hlt; jmp 3b
    code
}
