// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Pages: the kernel's own, and those behind a process's addresses:
 * src/pages.rs.
 *
 * Physical addresses are as the processor takes them in tables and control
 * blocks: where the kernel's memory is encrypted, with the bit that says so.
 */
#include <linux/gfp.h>
#include <linux/mem_encrypt.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <asm/io.h>

#include "glue.h"

void *unibody_pages_new(size_t size)
{
	return alloc_pages_exact(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
}

void unibody_pages_free(void *pages, size_t size)
{
	free_pages_exact(pages, size);
}

u64 unibody_physical(void *address)
{
	return __sme_set(virt_to_phys(address));
}

/*
 * The page at an address of this process; at_once: if it is there already.
 * One that may be written counts as written.
 */
bool unibody_user_page(unsigned long address, bool write, bool at_once, u64 *physical)
{
	unsigned int flags = write ? FOLL_WRITE : 0;
	struct page *page;
	int got;

	if (at_once)
		got = get_user_pages_fast_only(address, 1, flags, &page);
	else
		got = get_user_pages_fast(address, 1, flags, &page);
	if (got != 1)
		return false;
	*physical = __sme_set(page_to_phys(page));
	if (write && !PageReserved(page))
		SetPageDirty(page);
	put_page(page);
	return true;
}

/*
 * The entry of this process's page tables that maps an address: how much it
 * maps, and what its first byte's physical address is. 0: there is none, or
 * it is one of 4 KiB. Tables do not go while interrupts are off.
 */
size_t unibody_large_mapping(unsigned long address, u64 *physical)
{
	size_t size = 0;
	unsigned long flags;
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	if (!current->mm)
		return 0;
	local_irq_save(flags);
	pgd = READ_ONCE(*pgd_offset(current->mm, address));
	if (pgd_none(pgd))
		goto out;
	p4d = READ_ONCE(*p4d_offset(&pgd, address));
	if (p4d_none(p4d) || !p4d_present(p4d))
		goto out;
	pud = READ_ONCE(*pud_offset(&p4d, address));
	if (pud_none(pud) || !pud_present(pud))
		goto out;
	if (pud_leaf(pud)) {
		size = PUD_SIZE;
		*physical = __sme_set(PFN_PHYS(pud_pfn(pud)));
		goto out;
	}
	pmd = READ_ONCE(*pmd_offset(&pud, address));
	if (pmd_none(pmd) || !pmd_present(pmd) || !pmd_leaf(pmd))
		goto out;
	size = PMD_SIZE;
	*physical = __sme_set(PFN_PHYS(pmd_pfn(pmd)));
out:
	local_irq_restore(flags);
	return size;
}
